from unittest import mock

import pytest
from torch import Tensor

from benchmarks.fake_cuda import compile_guard, fake_cuda, is_preloaded
from gpt_common.errors import InputError
from tests.gpu_proof.recorder import Recorder, zeros


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    """The device guard that fake CUDA tensors need; None if this process has preloaded it."""
    if is_preloaded():
        return None
    try:
        return compile_guard(tmp_path_factory.mktemp("guard"))
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def recorder(guard):
    """The recorder of a CUDA device whose tensors are fake, for the length of a test."""
    with fake_cuda(guard), mock.patch.object(Tensor, "numpy", zeros), Recorder() as recorder:
        yield recorder
