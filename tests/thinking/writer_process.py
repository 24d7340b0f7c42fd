"""Writers and readers of a store in processes of their own, forked in milliseconds."""

import multiprocessing

import numpy as np

from oxyrec_jax.thinking.opening import open_store
from oxyrec_jax.thinking.records import Version

USERS = [f"u{number}" for number in range(200)]


def start(work, *arguments):
    """Starts `work(*arguments)`; its process is clean of this one's threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def start_writer(cfg, folder, windows, *, file_bytes=None):
    """Starts a process that puts USERS once for each window.

    Returns it and a connection with one message for each batch that is safe, and the
    error that ended it.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = start(write, cfg, folder, windows, file_bytes, theirs)
    theirs.close()
    return process, ours


def write(cfg, folder, windows, file_bytes, told):
    if file_bytes is not None:  # writes beyond fail as on a full quota
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    try:
        with open_store(cfg, folder, dimension=2) as store:
            for window in windows:
                put(store, window)
                told.send_bytes(b"%d" % window)
    except ValueError as error:
        told.send_bytes(str(error).encode())


def put(store, window, users=USERS):
    return store.put_many(users, [text(window)] * len(users),
                          np.full((len(users), 2), window), version=Version(1),
                          window=window).tolist()


def text(window):
    return str(window) * 50


def messages(connection):
    """Yields what a process tells until it ends."""
    while True:
        try:
            yield connection.recv_bytes().decode()
        except EOFError:
            return
