"""A chat server for judges that are language models."""

import chat_server
import pytest


@pytest.fixture
def server():
    """A chat server that scores 0.5 until the test tells it otherwise."""
    import judge_world
    running = chat_server.ChatServer()
    running.says(lambda request: judge_world.answer(
        len(chat_server.data_of(request)["items"])))
    yield running
    running.close()
