import pytest

from tests.gpu_proof.fake_cuda import compile_guard, fake_cuda


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    return compile_guard(tmp_path_factory.mktemp("guard"))


@pytest.fixture
def recorder(guard):
    """The recorder of a CUDA device whose tensors are fake, for the length of a test."""
    with fake_cuda(guard) as recorder:
        yield recorder
