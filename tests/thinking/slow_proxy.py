"""A TCP proxy that holds back what a server answers."""

import contextlib
import socket
import threading
import time


class Proxy:
    """Forwards to `port`; `delay` seconds before each answer, then `drip` for each
    single byte (0: all at once). Both may be changed while it runs."""

    def __init__(self, port):
        self.target, self.delay, self.drip = port, 0.0, 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets, self.threads = [], []
        self.closed = threading.Event()
        self.run(self.accept)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def run(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self):
        while not self.closed.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            self.sockets += [client, server]
            self.run(self.forward, client, server, False)
            self.run(self.forward, server, client, True)

    def forward(self, source, sink, answers):
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if answers and self.delay:
                    self.closed.wait(self.delay)
                if answers and self.drip:
                    for byte in data:
                        sink.sendall(bytes([byte]))
                        time.sleep(self.drip)
                else:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.closed.set()
        for end in [self.listener, *self.sockets]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)
        for end in [self.listener, *self.sockets]:
            end.close()


@contextlib.contextmanager
def before(port):
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
