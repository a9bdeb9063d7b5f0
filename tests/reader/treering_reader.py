#!/usr/bin/env python3
"""A second reader of treering stores, written from FORMAT.md alone.

    treering_reader.py STORE list                   kept and superseded checkpoints, a JSON object on each line
    treering_reader.py STORE restore RUN@STEP OUT   a checkpoint, byte for byte, to the file or folder OUT
    treering_reader.py STORE state RUN@STEP         the values saved beside the tensors, as JSON

It shares no code with the library, keeps no catalog and believes nothing: an entry counts with its hash and its place in
the chain, a footer with the hash in the log, a frame with its checksum, a chunk with its hash. It is not fast.
"""

import json
import os
import shutil
import struct
import sys
import tempfile
import zlib
from dataclasses import dataclass

import numpy
import zstandard
from blake3 import blake3

FORMAT = 0
CONFIG_MAX = 64 << 10
ENTRY_MAX = 1 << 20
CHUNK_MAX = 4 << 20
FOOTER_MAX = 256 << 20
HEADER_MAX = 256 << 20
RANK_MAX = 4096
DEPTH_MAX = 16
BASES_MAX = 4
KEPT, SUPERSEDED, FORGOTTEN = "kept", "superseded", "forgotten"


class Refused(Exception):
    """Why something cannot be read, in one line."""


def require(holds, why):
    if not holds:
        raise Refused(why)


def hash_of(data):
    return blake3(data).digest()


# -- binary fields

class Reader:
    """Takes little-endian values off the front of bytes, and never more than there are."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, count):
        require(count <= len(self.data) - self.at, "it is too short")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, width):
        return int.from_bytes(self.bytes(width), "little")

    def varint(self):
        value = 0
        for shift in range(0, 64, 7):
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            require(byte or not shift, "a number that is not in its shortest form")
            if byte < 0x80:
                require(value < 1 << 64, "a number of more than 64 bits")
                return value
        raise Refused("a number of more than 64 bits")

    def count(self, least):
        count = self.varint()
        require(count * least <= len(self.data) - self.at, "a count of more than can follow")
        return count

    def counted(self):
        return self.bytes(self.count(1))

    def text(self):
        try:
            return self.counted().decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("text that is not UTF-8") from None

    def flag(self):
        value = self.number(1)
        require(value < 2, "a flag that is neither 0 nor 1")
        return value == 1

    def rest(self):
        return self.bytes(len(self.data) - self.at)

    def end(self):
        require(self.at == len(self.data), "bytes behind its end")


# -- JSON

class Float(float):
    """A number with the text that it had."""

    def __new__(cls, text):
        number = super().__new__(cls, text)
        number.text = text
        return number


def parse_json(data):
    try:
        return json.loads(data.decode("utf-8"), parse_float=Float, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise Refused(f"no JSON: {error}") from None


def spell(value):
    """The one spelling of a JSON value; that of a fraction is left as it was."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{spell(key)}:{spell(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spell, value)) + "]"
    if isinstance(value, Float):
        return value.text
    return json.dumps(value, ensure_ascii=False)


# The fields of each kind, in order. One with ? may be absent, and is never null.
BODIES = {
    1: "run step parent? manifest schema packs needs tensors sizes components metrics? tags? note? config? provenance?"
    " supersedes? replaces?",
    2: "slot manifest packs needs dropped rule",
    3: "slot metrics? note?",
    4: "slot add? remove?",
    5: "run policy? modes?",
    6: "slot until purpose?",
    **{7: "pins", 8: "slots reason", 9: "slots", 10: "packs", 11: "packs", 12: "packs replaces", 13: "packs"},
}


def check_fields(value, fields):
    require(isinstance(value, dict), "a body that is no object")
    names = [field.rstrip("?") for field in fields.split()]
    require(list(value) == [name for name in names if name in value], "fields that are unknown, or in another order")
    require(all(field.endswith("?") or field in value for field in fields.split()), "a field is missing")
    require(all(value[name] not in (None, []) for name in value if f"{name}?" in fields.split()), "an empty field")


def hex_id(text, size):
    require(isinstance(text, str) and len(text) == 2 * size and text.strip("0123456789abcdef") == "", "an id that is none")
    return bytes.fromhex(text)


def number(value, bits=64):
    require(type(value) is int and 0 <= value < 1 << bits, "a number out of range")
    return value


def pack_id(text):
    require(isinstance(text, str), "the name of a pack that is none")
    save, _, index = text.partition("-")
    require(index.isascii() and index.isdigit() and str(int(index[:20])) == index, "the name of a pack that is none")
    return hex_id(save, 16), number(int(index), 32)


def stored_of_json(value):
    check_fields(value, "id recipe bytes")
    require(isinstance(value["recipe"], bool), "a flag that is none")
    return value["recipe"], hex_id(value["id"], 32), number(value["bytes"])


# -- the log

@dataclass
class Checkpoint:
    slot: int
    run: str
    step: int
    manifest: tuple
    packs: set
    metrics: dict
    status: str = KEPT


class Store:
    def __init__(self, root):
        self.root = root
        config = self.read("treering.json", CONFIG_MAX)
        require(config is not None, f"{root}: no store is here")
        said = parse_json(config)
        require(isinstance(said, dict) and type(said.get("format")) is int, "treering.json: no format")
        require(said["format"] <= FORMAT, f"the store has format {said['format']}, newer than {FORMAT}")
        require(not said.get("features"), f"the store needs {said.get('features')}, which is unknown here")
        require(said.get("hash") == "blake3", f"the store names chunks by {said.get('hash')}")
        self.id = hex_id(said.get("store"), 16)
        self.checkpoints, self.packs, self.tags = {}, {}, {}
        self.fold(hash_of(config))

    def read(self, key, size_max):
        try:
            with open(os.path.join(self.root, key), "rb") as file:
                data = file.read(size_max + 1)
        except FileNotFoundError:
            return None
        require(len(data) <= size_max, f"{key}: it is too long")
        return data

    def entry(self, slot):
        return self.read(f"log/{slot:020}", ENTRY_MAX)

    def fold(self, head):
        slot = 0
        while (data := self.entry(slot)) is not None:
            try:
                found, previous, save, body = self.decode(data, slot)
            except Refused as why:
                head = self.vouched(slot + 1)
                require(head is not None, f"log/{slot:020}: {why}")
            else:
                if body is not None:
                    require(previous == head, f"log/{slot:020}: it does not follow the entry before it")
                    try:
                        self.apply(slot, save, body)
                    except (KeyError, TypeError, AttributeError):
                        raise Refused(f"log/{slot:020}: a body that makes no sense") from None
                    except Refused as why:
                        raise Refused(f"log/{slot:020}: {why}") from None
                head = found
            slot += 1

    def vouched(self, slot):
        """The hash of the entry before this slot, if the entry in it is good and of a kind that is known."""
        try:
            data = self.entry(slot)
            _, previous, _, body = self.decode(data or b"", slot)
            return previous if body else None
        except Refused:
            return None

    def decode(self, data, slot):
        """The entry's hash, the hash before, the save, and kind and body; no body for an unknown kind."""
        require(len(data) >= 32 and hash_of(data[:-32]) == data[-32:], "its hash is wrong")
        fields = Reader(data[:-32])
        require(fields.bytes(4) == b"TRLG" and fields.number(2) == 0, "not an entry of this version")
        kind = fields.number(2)
        require(fields.bytes(16) == self.id, "it belongs to another store")
        require(fields.number(8) == slot, "it belongs to another slot")
        previous, _, save = fields.bytes(32), fields.bytes(16), fields.bytes(16)
        _time, _begin = fields.number(8), fields.number(8)
        body = fields.bytes(fields.number(4))
        fields.end()
        if kind not in BODIES:
            return data[-32:], previous, save, None
        value = parse_json(body)
        check_fields(value, BODIES[kind])
        require(spell(value).encode() == body, "a body that is not in its canonical form")
        return data[-32:], previous, save, (kind, value)

    def apply(self, slot, save, body):
        kind, said = body
        if kind == 1:
            self.commit(slot, save, said)
        elif kind == 2:
            checkpoint = self.checkpoint(said["slot"])
            checkpoint.packs = self.needed(save, said)
            checkpoint.manifest = stored_of_json(said["manifest"])
        elif kind == 3:
            self.checkpoint(said["slot"]).metrics.update(said.get("metrics", {}))
        elif kind == 4:
            checkpoint = self.checkpoint(said["slot"])
            for tag in said.get("remove", []):
                if self.tags.get((checkpoint.run, tag)) == checkpoint.slot:
                    del self.tags[checkpoint.run, tag]
            self.put_tags(checkpoint, said.get("add", []))
        elif kind == 6:
            self.checkpoint(said["slot"])
        elif kind == 8:
            for other in said["slots"]:
                self.forget(other)
        elif kind == 9:
            for other in said["slots"]:
                self.checkpoint(other).status = KEPT
        elif kind in (10, 13):
            self.condemn(said["packs"])
        elif kind == 12:
            new = self.put_packs(save, said["packs"])
            old = {self.known(name) for name in said["replaces"]}
            for checkpoint in self.checkpoints.values():
                if checkpoint.status != FORGOTTEN and checkpoint.packs & old:
                    checkpoint.packs = checkpoint.packs - old | new
            self.condemn(said["replaces"])

    def commit(self, slot, save, said):
        run, step = said["run"], number(said["step"])
        require(isinstance(run, str), "a run without a name")
        manifest, packs = stored_of_json(said["manifest"]), self.needed(save, said)
        for other in said.get("supersedes", []):
            if other in self.checkpoints and self.checkpoints[other].status == KEPT:
                self.checkpoints[other].status = SUPERSEDED
        if "replaces" in said:
            self.forget(said["replaces"])
        self.checkpoints[slot] = Checkpoint(slot, run, step, manifest, packs, dict(said.get("metrics", {})))
        self.put_tags(self.checkpoints[slot], said.get("tags", []))

    def checkpoint(self, slot):
        require(slot in self.checkpoints, f"it speaks of a checkpoint in slot {slot}, which is none")
        return self.checkpoints[slot]

    def known(self, name):
        pack = pack_id(name)
        require(pack in self.packs, f"it speaks of pack {name}, which the log does not know")
        return pack

    def put_packs(self, save, new):
        ids = set()
        for said in new:
            check_fields(said, "index bytes footer")
            pack = save, number(said["index"], 32)
            require(pack not in self.packs, "it brings a pack that was there before")
            self.packs[pack] = number(said["bytes"]), hex_id(said["footer"], 32)
            ids.add(pack)
        return ids

    def needed(self, save, said):
        needs = said["needs"]
        check_fields(needs, "base? plus? minus?")
        packs = set()
        if "base" in needs:
            base = self.checkpoint(needs["base"])
            require(base.status != FORGOTTEN, "it builds on a checkpoint that was forgotten")
            packs |= base.packs
        packs -= {self.known(name) for name in needs.get("minus", [])}
        packs |= {self.known(name) for name in needs.get("plus", [])}
        return packs | self.put_packs(save, said["packs"])

    def condemn(self, names):
        for name in names:
            self.packs[pack_id(name)] = None

    def forget(self, slot):
        checkpoint = self.checkpoint(slot)
        if checkpoint.status != FORGOTTEN:
            checkpoint.status = FORGOTTEN
            self.tags = {key: at for key, at in self.tags.items() if at != slot}

    def put_tags(self, checkpoint, tags):
        for tag in tags:
            self.tags[checkpoint.run, tag] = checkpoint.slot

    def live(self):
        return [c for c in self.checkpoints.values() if c.status != FORGOTTEN]

    def find(self, address):
        run, at, step = address.rpartition("@")
        require(at and step.isascii() and step.isdigit(), f"{address}: write RUN@STEP")
        found = [c for c in self.live() if (c.run, c.step) == (run, int(step))]
        require(found, f"no checkpoint {address}")
        return max(found, key=lambda c: (c.status == KEPT, c.slot))


# -- packs

class Chunks:
    """The chunks of the packs that a checkpoint needs."""

    def __init__(self, store, packs):
        self.store, self.places = store, {}
        for pack in sorted(packs):
            self.open(pack)
        for places in self.places.values():
            places.sort(key=lambda place: place[:3])

    def path(self, pack):
        name = f"{pack[0].hex()}-{pack[1]}"
        return os.path.join(self.store.root, "packs", name[:2], name)

    def open(self, pack):
        try:
            require(self.store.packs[pack], "it was condemned")
            size, footer_hash = self.store.packs[pack]
            with open(self.path(pack), "rb") as file:
                require(file.seek(0, os.SEEK_END) == size >= 88, f"it is not {size} bytes long")
                file.seek(size - 40)
                length, found, magic = struct.unpack("<I32s4s", file.read(40))
                fits = magic == b"TRPE" and length <= FOOTER_MAX and length + 88 <= size
                require(fits, "it does not end as a pack does")
                file.seek(size - 40 - length)
                footer = file.read(length)
            require(hash_of(footer) == found == footer_hash, "its footer is not the one that the log names")
            self.add_rows(pack, footer, size)
        except (Refused, FileNotFoundError) as why:
            raise Refused(f"pack {pack[0].hex()}-{pack[1]}: {why}") from None

    def add_rows(self, pack, footer, size):
        fields = Reader(footer)
        own = fields.number(2) == 0 and fields.bytes(16) == self.store.id
        require(own and (fields.bytes(16), fields.number(4)) == pack, "its footer belongs elsewhere")
        offset = 48
        for _ in range(fields.count(47)):
            chunk = fields.bytes(32)
            frame_bytes, chunk_bytes, crc = fields.number(4), fields.number(4), fields.number(4)
            codec, depth, bases = fields.number(1), fields.number(1), fields.number(1)
            sound = chunk_bytes <= CHUNK_MAX and depth <= DEPTH_MAX and bases <= BASES_MAX
            require(sound and (bases == 0) == (depth == 0), "a row that is out of bounds")
            head = bytes([codec, depth, bases]) + fields.bytes(32 * bases)
            place = depth, pack, offset, frame_bytes, chunk_bytes, crc, head
            self.places.setdefault(chunk, []).append(place)
            offset += frame_bytes
        fields.counted()
        fields.end()
        require(offset + len(footer) + 40 == size, "its frames do not fill it")

    def read(self, chunk, length=None, below=DEPTH_MAX + 1):
        """The bytes of a chunk, from the first good copy of a depth below that."""
        if chunk == hash_of(b"") and not length:
            return b""
        why = "no pack has it"
        for place in (place for place in self.places.get(chunk, []) if place[0] < below):
            try:
                return self.read_place(chunk, length, place)
            except Refused as refused:
                why = refused
        raise Refused(f"chunk {chunk.hex()}: {why}")

    def read_place(self, chunk, length, place):
        depth, pack, offset, frame_bytes, chunk_bytes, crc, head = place
        require(length is None or length == chunk_bytes, f"it is {chunk_bytes} bytes long, not {length}")
        with open(self.path(pack), "rb") as file:
            file.seek(offset)
            frame = file.read(frame_bytes)
        require(zlib.crc32(frame) == crc, "its checksum is wrong")
        require(frame.startswith(head), "its head is not what the footer says")
        require(head[2] == BASES.get(head[0], 0), "it has another number of bases than its codec")
        bases = [self.read(head[at : at + 32], below=depth) for at in range(3, len(head), 32)]
        data = decode(head[0], frame[len(head) :], chunk_bytes, *bases)
        require(len(data) == chunk_bytes and hash_of(data) == chunk, "its bytes have another hash")
        return data

    def pieces(self, stored):
        """The bytes of a stored byte string, chunk by chunk."""
        recipe, id, length = stored
        if not recipe:
            require(length <= CHUNK_MAX, "a chunk that is too long")
            yield self.read(id, length)
            return
        fields = open_part(self.read(id), b"TRRC")
        chunks = [(fields.varint(), fields.bytes(32)) for _ in range(fields.count(33))]
        fields.end()
        require(all(0 < size <= CHUNK_MAX for size, _ in chunks), "a chunk of no possible length")
        require(sum(size for size, _ in chunks) == length, "a recipe of another length")
        for size, chunk in chunks:
            yield self.read(chunk, size)

    def whole(self, stored):
        return b"".join(self.pieces(stored))


# -- codecs

BASES = {3: 1, 4: 1, 5: 1}  # of the codecs that have any


def decode(codec, body, length, base=None):
    if codec == 0:
        return bytes(body)
    if codec == 1:
        return decode_planes(body, length)
    if codec == 2:
        return unzstd(body, length)
    if codec == 3:
        require(len(base) == length, "a base of another length")
        return decode_delta(body, base)
    if codec == 4:
        require(len(base) == 2 * length, "a base of another length")
        return decode_cast(body, base)
    if codec == 5:
        require(len(base) == length, "a base of another length")
        return decode_patch(body, base)
    raise Refused(f"codec {codec} is unknown")


def unzstd(frame, length):
    require(frame[:4] == b"\x28\xb5\x2f\xfd", "not a zstd frame")
    try:
        require(zstandard.frame_content_size(frame) == length, "a zstd frame of another length")
        decoder = zstandard.ZstdDecompressor().decompressobj()
        data = decoder.decompress(frame)
        require(decoder.eof and not decoder.unused_data and len(data) == length, "a zstd frame that does not end here")
        return data
    except zstandard.ZstdError as error:
        raise Refused(f"zstd: {error}") from None


def decode_planes(body, length):
    fields = Reader(body)
    first, modes = fields.number(1), fields.number(2)
    width, rotated = first & 0x7F, first >= 0x80
    require(width in (1, 2, 4, 8) and not (rotated and width == 1), "elements of an unknown shape")
    require(modes >> 2 * width == 0, "a plane of an unknown mode")
    modes = [modes >> 2 * k & 3 for k in range(width)]
    require(3 not in modes, "a plane of an unknown mode")
    count = length // width
    tail = fields.bytes(length % width)
    planes = numpy.empty((count, width), numpy.uint8)
    for k in (k for k in range(width) if modes[k] == 0):
        planes[:, k] = numpy.frombuffer(fields.bytes(count), numpy.uint8)
    for k in (k for k in range(width) if modes[k] != 0):
        if modes[k] == 1:
            planes[:, k] = fields.number(1)
        else:
            planes[:, k] = numpy.frombuffer(unzstd(fields.bytes(fields.number(4)), count), numpy.uint8)
    fields.end()
    elements = planes.view(f"<u{width}").reshape(count)
    if rotated:
        one = elements.dtype.type(1)
        elements = elements >> one | elements << elements.dtype.type(8 * width - 1)
    return elements.tobytes() + bytes(tail)


def decode_cast(body, base):
    require(body in (b"\0", b"\1"), "a cast to an unknown type")
    bits = numpy.frombuffer(base, "<u4").astype(numpy.int64)
    nan = bits & 0x7FFFFFFF > 0x7F800000
    if body == b"\1":
        with numpy.errstate(all="ignore"):
            halves = numpy.frombuffer(base, "<f4").astype("<f2").view("<u2")
        return numpy.where(nan, bits >> 16 & 0x8000 | 0x7E00 | bits >> 13 & 0x3FF, halves).astype("<u2").tobytes()
    return numpy.where(nan, 0x7FC0, bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2").tobytes()


def decode_patch(body, base):
    fields, data, at = Reader(body), bytearray(base), 0
    width = fields.number(1)
    require(width in (1, 2, 4, 8) and len(base) % width == 0, "elements of an unknown width")
    while fields.at < len(body):
        at += fields.varint() * width
        require(at < len(data), "a change outside the chunk")
        data[at : at + width] = fields.bytes(width)
        at += width
    return bytes(data)


def decode_delta(body, base):
    fields = Reader(body)
    shape, context_from = fields.number(1), fields.number(1)
    width, kind, lane = 1 << (shape & 3), shape >> 2 & 3, 64 if shape & 3 == 3 else 32
    sign = 8 * width - 1
    sound = (kind == 0 and width == 1 or kind == 1) and context_from == 0 or kind == 2 and 0 < sign - context_from <= 8
    require(sound and shape < 32, "elements of an unknown shape")
    rows = len(base) // (32 * width)
    coded = numpy.ones(rows, bool)
    if shape & 16:
        bits = numpy.frombuffer(unzstd(fields.bytes(fields.number(4)), (rows + 7) // 8), numpy.uint8)
        bits = numpy.unpackbits(bits, bitorder="little").astype(bool)
        require(not bits[rows:].any(), "rows behind the last")
        coded = bits[:rows]
    tail = fields.bytes(len(base) % (32 * width))
    elements = numpy.frombuffer(base, f"<i{width}", 32 * rows).reshape(rows, 32).copy()
    if coded.any():
        bases = elements[coded].astype(numpy.int64)
        contexts = (bases & (1 << sign) - 1) >> context_from if kind == 2 else bases * 0
        numbers = decode_symbols(fields, contexts, 1 if width == 8 else 2)
        flip = -1 if kind == 2 else 0
        keep = (1 << sign) - 1 if kind == 2 else -1
        turn = bases >> 63 & flip
        if kind == 0:
            elements[coded] = (bases ^ numbers).astype(elements.dtype)
        else:
            numbers = (bases & keep ^ turn) + ((numbers ^ turn) - turn)
            numbers = numbers.astype(f"i{lane // 8}").astype(numpy.int64)
            signs = numbers >> 63 & flip
            elements[coded] = (((numbers ^ signs) & keep) | signs << sign).astype(elements.dtype)
    fields.end()
    return elements.tobytes() + bytes(tail)


def decode_symbols(fields, contexts, below):
    """The differences of rows whose elements have these contexts."""
    count = fields.number(1)
    require(1 <= count <= 16, "an impossible number of classes")
    firsts = list(fields.bytes(count - 1))
    require(firsts == sorted({*firsts} - {0}), "classes that do not increase")
    bits = Bits(fields.bytes(fields.number(2)))
    tables = [take_table(bits) for _ in range(count)]
    bits.end()
    parts = numpy.array(tables, numpy.int64)
    symbol_of = numpy.concatenate([numpy.repeat(numpy.arange(256), row) for row in parts])
    first_of = numpy.repeat((numpy.cumsum(parts, 1) - parts).reshape(-1), parts.reshape(-1))
    parts_of = numpy.repeat(parts.reshape(-1), parts.reshape(-1))
    classes = numpy.searchsorted(firsts, contexts, "right") * 4096
    half = (numpy.arange(256) + 1) >> 1
    raw_of = numpy.maximum((half >> below) - 1, 0)

    state = numpy.frombuffer(fields.bytes(128), "<u4").astype(numpy.int64)
    require(((state >= 1 << 15) & (state < 1 << 31)).all(), "an impossible state")
    rest = fields.rest()
    require(len(rest) % 2 == 0, "half a word")
    words, at = numpy.frombuffer(rest, "<u2").astype(numpy.int64), 0
    symbols, low = numpy.empty_like(contexts), numpy.zeros_like(contexts)
    for row, of_row in enumerate(classes):
        slot = of_row + state % 4096
        symbols[row] = symbol_of[slot]
        state = parts_of[slot] * (state >> 12) + state % 4096 - first_of[slot]
        raw, shift = raw_of[symbols[row]], 0
        while True:
            small = state < 1 << 15
            taken = words[at : at + numpy.count_nonzero(small)]
            require(len(taken) == numpy.count_nonzero(small), "too few words")
            state[small] = state[small] << 16 | taken
            at += len(taken)
            if not raw.any():
                break
            step = numpy.minimum(raw, 15)
            low[row] |= (state & (1 << step) - 1) << shift
            state, raw, shift = state >> step, raw - step, shift + 15
    require(at == len(words) and (state == 1 << 15).all(), "another number of words than it takes")
    half, raw = half[symbols], raw_of[symbols]
    magnitude = ((half - (raw << below)) << raw) | low
    return numpy.where(symbols & 1, magnitude, -magnitude)


class Bits:
    """Bits of bytes, the lowest of each first."""

    def __init__(self, data):
        self.bits, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count):
        require(count <= self.left, "a table that ends too soon")
        number, self.bits, self.left = self.bits & (1 << count) - 1, self.bits >> count, self.left - count
        return number

    def end(self):
        require(self.left < 8 and self.bits == 0, "bits behind a table")


def take_table(bits):
    """How many of 4096 parts each symbol has."""
    low, high, top = bits.take(8), bits.take(8), bits.take(8)
    require(low <= top <= high, "a table whose most frequent symbol is outside")
    parts, length = [0] * 256, 4
    for symbol in (symbol for symbol in range(low, high + 1) if symbol != top):
        if not bits.take(1):
            length = (length + 1 - 2 * bits.take(1)) if bits.take(1) else bits.take(4)
        require(0 <= length <= 12, "parts of an impossible length")
        if length:
            fine = min(length - 1, 3)
            parts[symbol] = ((1 << fine) | bits.take(fine)) << (length - 1 - fine)
    parts[top] = 4096 - sum(parts)
    require(parts[top] > 0, "a table with more parts than there are")
    return parts


# -- manifests

def open_part(data, magic):
    fields = Reader(data)
    require(fields.bytes(4) == magic and fields.number(1) == 0, f"no {magic.decode()} of this version")
    return fields


def take_stored(fields):
    recipe, id, length = fields.flag(), fields.bytes(32), fields.varint()
    require(recipe or length <= CHUNK_MAX, "a chunk that is too long")
    return recipe, id, length


def take_optional(fields):
    return take_stored(fields) if fields.flag() else None


def take_path(fields):
    name = fields.text()
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
    hidden = any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\\" for c in name)
    require(plain and not hidden and len(name.encode()) <= 4096, f"{name!r} is no plain relative path")
    return name


@dataclass
class Tensor:
    component: int
    file: int
    name: str
    dtype: str
    shape: list
    size: int
    stored: tuple = None


class Manifest:
    def __init__(self, chunks, stored):
        self.chunks = chunks
        fields = open_part(chunks.whole(stored), b"TRMR")
        self.folder, schema = fields.flag(), take_stored(fields)
        blocks = []
        for _ in range(fields.count(2)):
            present = fields.flag()
            ids = [fields.bytes(32) for _ in range(fields.count(32))]
            require(present or not ids, "blocks of a dropped component")
            blocks.append(ids if present else None)
        self.files = [(take_path(fields), take_optional(fields)) for _ in range(fields.count(2))]
        self.side_files = [(take_path(fields), take_stored(fields)) for _ in range(fields.count(35))]
        self.state = take_optional(fields)
        fields.end()
        self.read_schema(chunks.whole(schema))
        require(len(blocks) == len(self.components), "root and schema differ")
        self.dropped = [name for name, ids in zip(self.components, blocks) if ids is None]
        for component, ids in enumerate(blocks):
            if ids is not None:
                self.place(component, ids)

    def read_schema(self, data):
        fields = open_part(data, b"TRMS")
        self.components = [fields.text() for _ in range(fields.count(1))]
        require(fields.varint() == len(self.files), "root and schema differ")
        dtypes = [fields.text() for _ in range(fields.count(1))]
        self.tensors = []
        for n in range(fields.count(7)):
            component, file, name, dtype = fields.varint(), fields.varint(), fields.text(), fields.varint()
            known = component < len(self.components) and file < len(self.files) and dtype < len(dtypes)
            require(known, "a tensor of a component, file or type that is none")
            rank = fields.count(1)
            require(rank <= RANK_MAX, "too many dimensions")
            shape, size = [fields.varint() for _ in range(rank)], fields.varint()
            require(fields.varint() <= n, "an alias of a later tensor")
            sorted_so_far = not self.tensors or self.tensors[-1].component <= component
            require(sorted_so_far, "tensors that are not sorted by component")
            self.tensors.append(Tensor(component, file, name, dtypes[dtype], shape, size))
        fields.end()

    def place(self, component, blocks):
        ids = []
        for block in blocks:
            fields = open_part(self.chunks.read(block), b"TRMB")
            ids += [(fields.flag(), fields.bytes(32)) for _ in range(fields.count(33))]
            fields.end()
        tensors = [tensor for tensor in self.tensors if tensor.component == component]
        require(len(ids) == len(tensors), "tensors without ids")
        for tensor, (recipe, id) in zip(tensors, ids):
            tensor.stored = recipe, id, tensor.size

    def outputs(self):
        """For each file its name and, in order, what it is made of: bytes, or byte strings of the store."""
        require(not self.dropped, f"components were dropped: {', '.join(self.dropped)}")
        side = [(name, [stored]) for name, stored in self.side_files]
        if all(header is not None for _, header in self.files):
            return [(name, self.parts(n, header)) for n, (name, header) in enumerate(self.files)] + side
        return [("model.safetensors", self.made())] + side

    def parts(self, file, header):
        """The header as it was, and the tensors in its order."""
        data = self.chunks.whole(header)
        left = {tensor.name: tensor for tensor in self.tensors if tensor.file == file}
        said = parse_json(data[8:])
        require(int.from_bytes(data[:8], "little") == len(data) - 8 <= HEADER_MAX, "a header of another length")
        said.pop("__metadata__", None)
        end, parts = 0, [data]
        for name, entry in sorted(said.items(), key=lambda item: item[1]["data_offsets"]):
            begin, tensor = end, left.pop(name, None)
            require(tensor is not None, "a header that does not fit the schema")
            end += tensor.size
            require(entry["data_offsets"] == [begin, end], "a header that does not fit the schema")
            parts.append(tensor.stored)
        require(not left, "a header that does not fit the schema")
        return parts

    def made(self):
        """A header for tensors that came from memory."""
        names = {tensor.name for tensor in self.tensors}
        require(len(names) == len(self.tensors) > 0, "several components have a tensor of the same name")
        header, begin = {"__metadata__": {"format": "pt"}}, 0
        for tensor in self.tensors:
            offsets = [begin, begin + tensor.size]
            header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
            begin += tensor.size
        text = spell(header).encode()
        text += b" " * (-len(text) % 8)
        return [len(text).to_bytes(8, "little") + text] + [tensor.stored for tensor in self.tensors]


# -- commands

def open_checkpoint(store, address):
    checkpoint = store.find(address)
    chunks = Chunks(store, checkpoint.packs)
    try:
        return Manifest(chunks, checkpoint.manifest)
    except Refused as why:
        raise Refused(f"the manifest of {address}: {why}") from None


def list_all(store):
    for c in store.live():
        tags = sorted(tag for (_, tag), slot in store.tags.items() if slot == c.slot)
        metrics = dict(sorted(c.metrics.items()))
        line = {"run": c.run, "step": c.step, "status": c.status, "metrics": metrics, "tags": tags}
        print(json.dumps(line))


def restore(store, address, output):
    require(not os.path.lexists(output), f"{output}: it exists")
    manifest = open_checkpoint(store, address)
    outputs = manifest.outputs()
    folder = manifest.folder or len(outputs) > 1
    output = os.path.abspath(output)
    temporary = tempfile.mkdtemp(prefix=".treering-", dir=os.path.dirname(output))
    try:
        for name, parts in outputs:
            path = os.path.join(temporary, "out", name) if folder else os.path.join(temporary, "out")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                for part in parts:
                    for piece in [part] if isinstance(part, bytes) else manifest.chunks.pieces(part):
                        file.write(piece)
        os.rename(os.path.join(temporary, "out"), output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def show_state(store, address):
    manifest = open_checkpoint(store, address)
    require(manifest.state is not None, f"{address} has no state")
    print(manifest.chunks.whole(manifest.state).decode())


def main(arguments):
    match arguments:
        case [root, "list"]:
            list_all(Store(root))
        case [root, "restore", address, output]:
            restore(Store(root), address, output)
        case [root, "state", address]:
            show_state(Store(root), address)
        case _:
            raise Refused("usage: treering_reader.py STORE list | restore RUN@STEP OUT | state RUN@STEP")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"treering_reader: {' '.join(str(error).split())}")
