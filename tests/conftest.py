"""What all tests share: no setting of the user's reaches them, and nothing of the user's is touched by them."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def isolated_settings(tmp_path_factory):
    """Hide every `SIMILARITY_*` variable, and keep checkpoints and decoded pictures in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SIMILARITY_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("settings")
        patch.setenv("SIMILARITY_CHECKPOINTS", str(folder / "checkpoints"))
        patch.setenv("SIMILARITY_CACHE", str(folder / "cache"))
        yield
