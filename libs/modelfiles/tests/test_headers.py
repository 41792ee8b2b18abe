"""Hostile and broken headers: each costs neither time nor memory and is refused by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.safetensors_file import SafetensorsFile, Weights, weight_files

FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=1000)


def tensor(start: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - start) // 4], "data_offsets": [start, end]}


def safetensors(path: Path, header: bytes | Mapping[str, Any], data: int = 0, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
    return path


def refused_safetensors(path: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        SafetensorsFile(path)
    assert path.name in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("header", "data", "names"),
    [
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, "overlap"),
        ({"a": tensor(0, 8), "b": tensor(0, 8)}, 8, "overlap"),
        ({"a": tensor(0, 4), "b": tensor(8, 12)}, 12, "gap"),
        ({"a": tensor(0, 8)}, 12, "belong to no tensor"),
        ({"a": tensor(0, 16)}, 8, "outside the file"),
        ({"a": tensor(-8, 8, [4])}, 8, "not counts"),
        ({"a": tensor(8, 0, [2])}, 8, "outside the file"),
        ({"a": tensor(0, 8, [3])}, 8, "which its shape and type do not need"),
        ({"a": tensor(0, 8, [-1, -2])}, 8, "not counts"),
        ({"a": tensor(0, 8, [2.0])}, 8, "not counts"),
        ({"a": tensor(0, 4, [True])}, 4, "not counts"),
        ({"a": tensor(0, 0, [1 << 61, 1 << 61])}, 0, "do not need"),
        ({"a": tensor(0, 4, [1] * 9)}, 4, "not counts"),
        ({"a": {**tensor(0, 4), "extra": 1}}, 4, "other fields"),
        ({"a": 1}, 0, "other fields"),
        ([], 0, "not a JSON object"),
        (b"[" * 200_000, 0, "not JSON"),
        (b'{"a": ', 0, "not JSON"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}', 4, "'a' twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}', 4, "'dtype' twice"),
    ],
)
def test_b7_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: Any, data: int, names: str) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    refusal = refused_safetensors(safetensors(tmp_path / "model.safetensors", text, data))
    assert refusal.reason == "SAFETENSORS_INVALID"
    assert names in refusal.message


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 26 << 20, 3])
def test_b7_a_safetensors_header_of_another_length_than_said_is_refused(tmp_path: Path, length: int) -> None:
    refused = refused_safetensors(safetensors(tmp_path / "m.safetensors", {"a": tensor(0, 4)}, 4, length))
    assert refused.reason == "SAFETENSORS_INVALID"


def test_b7_short_files_and_unknown_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\x01\x00")
    assert "8-byte length" in refused_safetensors(path).message
    refusal = refused_safetensors(safetensors(path, {"a": tensor(0, 4, [4], "F8_E5M2")}, 4))
    assert refusal.reason == "TENSOR_TYPE_UNSUPPORTED"


@FUZZ
@given(st.binary(max_size=300))
def test_b1_any_bytes_are_safetensors_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", max(0, len(data) - 4)) + data)
    try:
        SafetensorsFile(path)
    except Refused as err:
        assert err.reason in {"SAFETENSORS_INVALID", "TENSOR_TYPE_UNSUPPORTED"}


def test_tensors_of_every_float_type_are_read_as_float32(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    save_file({"f32": values, "f16": values.astype(np.float16), "f64": values.astype(np.float64)}, tmp_path / "a")
    bf16 = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = json.dumps({"bf16": tensor(0, 8, [2, 2], "BF16"), "ids": tensor(8, 16, [2], "I32")}).encode()
    (tmp_path / "b").write_bytes(struct.pack("<Q", len(header)) + header + bf16 + bytes(8))
    weights = Weights((tmp_path / "a", tmp_path / "b"))
    for name in ("f32", "f16", "f64", "bf16"):
        assert weights.read(name).dtype == np.float32
        np.testing.assert_array_equal(weights.read(name), values)
    with pytest.raises(Refused, match="ids is I32"):
        weights.read("ids")
    with pytest.raises(Refused, match="which another file holds too"):
        Weights((tmp_path / "a", tmp_path / "a"))


@pytest.mark.parametrize(
    "index",
    [{}, {"weight_map": []}, {"weight_map": {"a": "../x.safetensors"}}, {"weight_map": {"a": "gone.safetensors"}}],
)
def test_b6_an_index_names_only_weights_beside_it(tmp_path: Path, index: Any) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "x.safetensors").touch()
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refused) as caught:
        weight_files(tmp_path / "model")
    assert caught.value.reason == "WEIGHTS_INDEX_INVALID"


class Header:
    """Writes a GGUF header field by field, right or wrong."""

    def __init__(self, tensors: int = 0, keys: int = 0, *, version: int = 3) -> None:
        self.data = struct.pack("<4sIQQ", b"GGUF", version, tensors, keys)

    def text(self, value: str | bytes) -> Header:
        raw = value.encode() if isinstance(value, str) else value
        self.data += struct.pack("<Q", len(raw)) + raw
        return self

    def number(self, form: str, *values: float) -> Header:
        self.data += struct.pack("<" + form, *values)
        return self

    def key(self, name: str, value: int = 1) -> Header:
        return self.text(name).number("II", GGUFValueType.UINT32, value)

    def tensor(
        self, name: str, shape: tuple[int, ...], start: int, kind: int = GGMLQuantizationType.F32, dimensions: int = -1
    ) -> Header:
        self.text(name).number("I", len(shape) if dimensions < 0 else dimensions)
        return self.number(f"{len(shape)}Q", *shape).number("IQ", kind, start)


HOSTILE_GGUF: dict[str, tuple[Header, str]] = {
    "unknown version": (Header(version=9), "unknown version 9"),
    "huge counts": (Header(1 << 60, 1 << 60), "more than any model has"),
    "keys past the end": (Header(0, 5), "middle of its header"),
    "huge text": (Header(0, 1).number("Q", 1 << 62), "has a text of"),
    "text past the end": (Header(0, 1).number("Q", 1 << 20), "middle of its header"),
    "text that is none": (Header(0, 1).text(b"\xff\xfe"), "not UTF-8"),
    "duplicate key": (Header(0, 2).key("a").key("a"), "the key 'a' twice"),
    "unknown type": (Header(0, 1).text("a").number("I", 99), "unknown type 99"),
    "huge array": (Header(0, 1).text("a").number("IIQ", GGUFValueType.ARRAY, 4, 1 << 40), "array of"),
    "array past the end": (Header(0, 1).text("a").number("IIQ", GGUFValueType.ARRAY, 4, 1 << 20), "middle of its"),
    "nested arrays": (Header(0, 1).text("a").number("IIQ", GGUFValueType.ARRAY, GGUFValueType.ARRAY, 1), "of arrays"),
    "odd alignment": (Header(0, 1).key("general.alignment", 3), "alignment of 3"),
    "no alignment": (Header(0, 1).key("general.alignment", 0), "alignment of 0"),
    "tensor past the end": (Header(1).tensor("t", (8,), 0), "ends before 't' does"),
    "tensor far away": (Header(1).tensor("t", (8,), 1 << 62), "ends before 't' does"),
    "overlapping tensors": (Header(2).tensor("a", (16,), 0).tensor("b", (16,), 32), "overlap"),
    "duplicate tensor": (Header(2).tensor("a", (8,), 0).tensor("a", (8,), 32), "tensor 'a' twice"),
    "unaligned tensor": (Header(1).tensor("a", (8,), 4), "not aligned"),
    "empty tensor": (Header(1).tensor("a", (0,), 0), "impossible shape"),
    "huge tensor": (Header(1).tensor("a", (1 << 30, 1 << 30), 0), "impossible shape"),
    "broken block": (Header(1).tensor("a", (33,), 0, GGMLQuantizationType.Q8_0), "impossible shape"),
    "unknown encoding": (Header(1).tensor("a", (8,), 0, 250), "unknown way 250"),
    "many dimensions": (Header(1).tensor("a", (8,), 0, dimensions=1 << 31), "dimensions"),
}


@pytest.mark.parametrize("case", HOSTILE_GGUF)
def test_b7_a_gguf_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    header, names = HOSTILE_GGUF[case]
    path = tmp_path / "model.gguf"
    # Room for the tensors that are named rightly, not for the others.
    path.write_bytes(header.data + bytes(128 if "past the end" not in case else 8))
    with pytest.raises(Refused) as caught:
        GgufFile(path)
    assert caught.value.reason == "GGUF_INVALID"
    assert "model.gguf" in caught.value.message
    assert names in caught.value.message


def whole_gguf(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokens", ["a", "é"])
    writer.add_array("numbers", [1, 2])
    writer.add_bool("yes", True)
    writer.add_tensor("t", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.add_tensor("h", np.arange(4, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_whole_gguf_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = GgufFile(whole_gguf(tmp_path / "m.gguf"))
    assert (model.get("tokens"), model.get("numbers"), model.get("yes")) == (["a", "é"], [1, 2], True)
    assert model.get("general.architecture") == "llama"
    np.testing.assert_array_equal(model.read(model.tensors["t"]), np.arange(64, dtype=np.float32).reshape(2, 32))
    np.testing.assert_array_equal(model.read(model.tensors["h"]), np.arange(4))


def test_f10_a_gguf_that_was_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = whole_gguf(tmp_path / "m.gguf").read_bytes()
    needed = len(whole.rstrip(b"\0")) - 1
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 300, 7), needed]:
        cut.write_bytes(whole[: min(length, needed)])
        with pytest.raises(Refused, match=r"cut\.gguf"):
            GgufFile(cut)


@FUZZ
@given(st.integers(0, 250), st.binary(min_size=1, max_size=8))
def test_b1_f10_a_gguf_with_changed_bytes_is_read_or_refused(tmp_path: Path, at: int, changed: bytes) -> None:
    whole = bytearray(whole_gguf(tmp_path / "m.gguf").read_bytes())
    whole[at : at + len(changed)] = changed
    path = tmp_path / "changed.gguf"
    path.write_bytes(whole)
    try:
        model = GgufFile(path)
        for info in model.tensors.values():
            model.read(info)
    except Refused as err:
        assert err.reason in {"GGUF_INVALID", "TENSOR_TYPE_UNSUPPORTED"}
