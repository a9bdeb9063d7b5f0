"""Any state of the kinds that are promised comes back as it was."""

from __future__ import annotations

import collections
import datetime
import gc
import os
import pathlib
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import treering
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same import assert_same
from treering.tree import DEPTH_MAX, encode

SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(),
    st.text(),
    st.text(st.characters()),
    st.binary(max_size=20),
    st.complex_numbers(),
)
words = st.one_of(
    scalars,
    st.datetimes(),
    st.datetimes(timezones=st.just(datetime.UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.builds(datetime.timezone, st.timedeltas(datetime.timedelta(hours=-20), datetime.timedelta(hours=20))),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
    st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1)).map(
        lambda parts: pathlib.PosixPath(*parts)
    ),
    st.sets(scalars.filter(lambda x: x == x), max_size=3),
    st.frozensets(st.integers(), max_size=3),
    st.builds(bytearray, st.binary(max_size=5)),
    st.sampled_from([torch.bfloat16, torch.Size([2, 3]), torch.device("cpu"), torch.channels_last, torch.strided]),
    st.sampled_from([np.float32(0.1), np.int64(-3), np.bool_(True), np.complex64(1j), np.str_("é"), np.float16("nan")]),
    st.sampled_from(
        [np.datetime64("2026-01-31T12:00", "s"), np.timedelta64(5, "ms"), np.dtype("<f4"), np.bytes_(b"x")]
    ),
)


def array_of(dtype: str, shape: list[int]) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.random.default_rng(1).integers(0, 120, size, np.uint8).view(dtype).reshape(shape)


arrays = st.builds(
    array_of,
    st.sampled_from(["<f8", "<f4", "<f2", ">f4", "<i8", ">u2", "u1", "<c8", "<c16", "<M8[ns]", "S3", "<u4"]),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
tensors = st.builds(
    lambda dtype, shape: torch.randint(0, 2, shape).to(dtype),
    st.sampled_from(
        [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]
    ),
    st.lists(st.integers(0, 3), max_size=3),
)
keys = st.one_of(scalars.filter(lambda x: x == x), st.tuples(st.integers(), st.text(max_size=2)))
trees = st.recursive(
    st.one_of(words, arrays, tensors),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.just("$")), inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(st.text(max_size=4), inner, max_size=3).map(collections.OrderedDict),
        st.lists(inner, max_size=3).map(lambda items: collections.deque(items, maxlen=5)),
    ),
    max_leaves=12,
)


@settings(max_examples=int(os.environ.get("TREERING_EXAMPLES", "40")), **SETTINGS)
@given(state=st.dictionaries(st.text(max_size=6), trees, max_size=4))
def test_a_state_comes_back(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    store = treering.Store(tmp_path_factory.getbasetemp() / "trees")
    name = f"run-{len(store.runs()) if store.path.exists() else 0}"
    with store.run(name) as run:
        run.save(1, state)
        run.wait()
        assert_same(run.latest().load(), state)


def back(run: treering.Run, state: Any) -> Any:
    step = len(run.history()) + 1
    if step > 1:
        run.latest().load()
    run.save(step, {"x": state}).wait()
    return run.latest().load()["x"]


EDGES: list[Any] = [
    float("nan"),
    -float("nan"),
    float("inf"),
    -0.0,
    5e-324,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    True,
    1,
    "\ud800 lone",
    "\0\n",
    {1: "a", "1": "b", None: "c", (1, "x"): "d", 2.5: "e", b"k": "f"},
    {"$": "int", "value": "7"},
    {"b": 1, "a": 2},
    collections.Counter({"x": 2, "y": 1}),
    collections.deque([1, 2], maxlen=2),
    [[], (), {}, set(), frozenset()],
    datetime.datetime(2026, 10, 25, 2, 30, fold=1),
    datetime.time(1, 2, 3, 4),
    datetime.timezone(datetime.timedelta(hours=2), "CEST"),
    pathlib.PurePosixPath("a/b"),
    np.array(7.5),
    np.zeros((0, 3), np.int16),
    np.arange(12).reshape(3, 4).T,
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(5)[::-1],
    np.broadcast_to(np.float32(1), (3, 2)),
    np.array([(1, 2.5, b"ab")], dtype=[("a", ">i4"), ("b", "<f8"), ("c", "S2")]),
    np.array(["2026-01-31"], dtype="M8[D]"),
    np.array(["ä", "bc"]),
    np.longdouble(1) / 3 * np.ones(2, np.longdouble),
]


@pytest.mark.parametrize("value", EDGES, ids=lambda value: str(type(value).__name__))
def test_edges_come_back(run: treering.Run, value: Any) -> None:
    came = back(run, value)
    assert_same(came, np.array(value) if isinstance(value, np.ndarray) else value)


ALL_DTYPES = sorted({d for d in vars(torch).values() if isinstance(d, torch.dtype)} - {
    torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4
}, key=str)  # fmt: skip


def test_every_dtype_of_torch_comes_back(run: treering.Run) -> None:
    noise = torch.randint(0, 256, (64 * 3,), dtype=torch.uint8)
    state = {str(dtype): noise.clone().view(dtype) for dtype in ALL_DTYPES}
    came = back(run, state)
    for name, tensor in state.items():
        assert came[name].dtype == tensor.dtype and came[name].shape == tensor.shape, name
        assert came[name].view(torch.uint8).equal(tensor.view(torch.uint8)), name


def test_tensors_of_all_kinds_come_back(run: treering.Run) -> None:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    state = {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 5),
        "transposed": whole.transpose(0, 2),
        "strided": whole[:, ::2, 1:],
        "expanded": torch.tensor([1.0]).expand(4, 3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "conj": torch.tensor([1 + 2j]).conj(),
        "neg": torch.tensor([1 + 2j]).conj().imag,
        "grad": torch.ones(2, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "frozen": torch.nn.Parameter(torch.ones(3), requires_grad=False),
    }
    assert_same(back(run, state), {name: t for name, t in state.items()})


def test_tied_tensors_are_stored_once_and_come_back_tied(run: treering.Run) -> None:
    weight, array = torch.randn(1000, 100), np.arange(1000.0)
    state = {"model": {"embed": weight, "head": weight, "view": weight[:10]}, "a": array, "b": array}
    report = run.save(1, state).result()
    assert report["encoded_bytes"] < 1.1 * (weight.nbytes + array.nbytes) + weight[:10].nbytes
    came = run.latest().load()
    assert came["model"]["head"] is came["model"]["embed"]
    assert came["a"] is came["b"]
    assert_same(came, {"model": {"embed": weight, "head": weight, "view": weight[:10]}, "a": array, "b": array})


def test_what_comes_back_is_the_callers_own(run: treering.Run) -> None:
    run.save(1, {"t": torch.ones(1000), "a": np.ones(1000)}).wait()
    first = run.latest().load()
    first["t"].zero_()
    first["a"][:] = 0
    second = run.latest().load()
    assert second["t"].min() == 1 and second["a"].min() == 1


class Mine:
    pass


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("sparse tensor .sparse_coo", lambda: torch.eye(3).to_sparse()),
    ("sparse tensor .sparse_csr", lambda: torch.eye(3).to_sparse_csr()),
    ("quantized tensor", lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
    ("meta device", lambda: torch.empty(2, device="meta")),
    ("no shape yet", lambda: torch.nn.UninitializedParameter()),
    ("nested tensor", lambda: torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged)),
    ("object", lambda: np.array([object()])),
    ("MaskedArray", lambda: np.ma.masked_array([1], [True])),
    ("bit_generator.state", lambda: np.random.default_rng(1)),
    ("test_tree.Mine", Mine),
    ("function", lambda: print),
    ("vars", lambda: types.SimpleNamespace(a=1)),
    ("_asdict", lambda: collections.namedtuple("Point", "x y")(1, 2)),
    ("save dict", lambda: collections.defaultdict(int)),
]


@pytest.mark.parametrize(("word", "make"), REFUSED, ids=[word for word, _ in REFUSED])
@pytest.mark.filterwarnings("ignore::UserWarning:torch.*", "ignore:Sparse CSR", "ignore:torch.quantize")
def test_what_cannot_be_saved_is_refused_with_its_path(run: treering.Run, word: str, make: Callable[[], Any]) -> None:
    value = make()
    with pytest.raises(treering.UnsupportedError, match=word) as refused:
        run.save(1, {"outer": {"inner": [0, value]}})
    assert "outer.inner.1" in str(refused.value)
    assert run.latest() is None
    run.save(1, {"fine": 1}).wait()


def test_what_is_too_deep_is_refused(run: treering.Run) -> None:
    deep: list[Any] = []
    for _ in range(DEPTH_MAX + 1):
        deep = [deep]
    with pytest.raises(treering.InvalidError, match="in each other"):
        run.save(1, {"x": deep})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(treering.InvalidError, match="in each other"):
        run.save(1, {"x": endless})
    fits: Any = {}
    for _ in range(DEPTH_MAX - 3):
        fits = {1: fits}
    assert_same(back(run, fits), fits)


def test_names_that_meet_stay_apart(run: treering.Run) -> None:
    state = {"a.b": torch.zeros(2), "a": {"b": torch.ones(2)}, "": torch.ones(1), "x/y": {"\n": torch.ones(3)}}
    run.save(1, state).wait()
    assert_same(run.latest().load(), state)


def test_nothing_is_needed_to_import_it() -> None:
    code = "import sys, treering; print(sorted({'torch', 'numpy', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_plain_state_needs_no_framework(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, treering\n"
        "with treering.Store(sys.argv[1]).run('r') as run:\n"
        "    run.save(1, {'epoch': 3, 'names': ('a', b'b')}).wait()\n"
        "    assert run.latest().load() == {'epoch': 3, 'names': ('a', b'b')}\n"
        "assert not {'torch', 'numpy', 'jax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "store")], check=True)


def test_modules_of_frameworks_are_imported_once_they_are_asked_for() -> None:
    code = (
        "import sys, treering\n"
        "try: treering.nothing\n"
        "except AttributeError as error: print(error)\n"
        "sys.modules['torch'] = None\n"
        "try: treering.dcp\n"
        "except ImportError as error: print(error)\n"
        "del sys.modules['torch']\n"
        "print(treering.dcp.save.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said[0] == "module 'treering' has no attribute 'nothing'" and "torch" in said[1]
    assert said[2] == "treering.dcp"


def test_the_collector_of_garbage_goes_on_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(treering.UnsupportedError):
        encode({"model": object()})
    assert gc.isenabled()
