#!/usr/bin/env python3
"""A second reader of treering stores, written from FORMAT.md alone.

    treering_reader.py STORE list                   kept and superseded checkpoints, a JSON object on each line
    treering_reader.py STORE restore RUN@STEP OUT   a checkpoint, byte for byte, to the file or folder OUT
    treering_reader.py STORE state RUN@STEP         the values saved beside the tensors, as JSON

It shares no code with the library, keeps no catalog and believes nothing: an entry counts with its hash and its place
in the chain, a footer with the hash in the log, a frame with its checksum, a chunk with its hash. It is not fast.
"""

import json, math, os, struct, sys, tempfile, zlib
from types import SimpleNamespace

import numpy
import zstandard
from blake3 import blake3

CONFIG_MAX, ENTRY_MAX, CHUNK_MAX, FOOTER_MAX = 64 << 10, 1 << 20, 4 << 20, 256 << 20
HEADER_MAX, RANK_MAX, DEPTH_MAX, BASES_MAX = 256 << 20, 4096, 16, 4
KEPT, SUPERSEDED, FORGOTTEN = "kept", "superseded", "forgotten"
# What reading bytes that make no sense comes to.
REFUSED = ValueError, LookupError, TypeError, AttributeError, RecursionError, zstandard.ZstdError

def require(holds, why):
    if not holds:
        raise ValueError(why)

def hash_of(data): return blake3(data).digest()

class Reader:
    """Takes little-endian values off the front of bytes, and never more than there are."""

    def __init__(self, data, magic=b"", newest=0):
        self.data, self.at = data, 0
        if magic:
            known = self.bytes(4) == magic and (version := self.number(1)) <= newest
            require(known, f"no {magic.decode()} of this version")
            self.version = version

    def hash(self): return self.bytes(32)
    def number(self, width): return int.from_bytes(self.bytes(width), "little")
    def flag(self): return (False, True)[self.number(1)]
    def text(self): return str(self.bytes(self.count(1)), "utf-8")
    def many(self, least, take): return [take() for _ in range(self.count(least))]
    def stored(self): return self.flag(), self.hash(), self.varint()
    def optional(self): return self.stored() if self.flag() else None
    def rest(self): return self.bytes(len(self.data) - self.at)
    def end(self): require(self.at == len(self.data), "bytes behind its end")

    def bytes(self, count):
        require(count <= len(self.data) - self.at, "it is too short")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        value = shift = 0
        while (byte := self.number(1)) >= 0x80 and shift < 63:
            value, shift = value | (byte & 0x7F) << shift, shift + 7
        value |= byte << shift
        require(value < 1 << 64 and (byte or not shift), "a number that is too large, or not in its shortest form")
        return value

    def count(self, least):
        count = self.varint()
        require(count * least <= len(self.data) - self.at, "a count of more than can follow")
        return count

    def path(self):
        name = self.text()
        plain = all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in name.split("/"))
        hidden = any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\\" for c in name)
        require(plain and not hidden and len(name.encode()) <= 4096, f"{name!r} is no plain relative path")
        return name

class Fraction(str): """A number that is no integer, as it was spelled."""

def parse_json(data): return json.loads(str(data, "utf-8"), parse_float=Fraction, parse_constant=str)

def spell(value):
    """The one spelling of a JSON value; that of a fraction is left as it was."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{spell(key)}:{spell(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spell, value)) + "]"
    return str(value) if isinstance(value, Fraction) else json.dumps(value, ensure_ascii=False)

# The fields of each kind, in order. One with ? may be absent, and is never null.
BODIES = {
    1: "run step parent? manifest schema packs needs tensors sizes components dropped? metrics? tags? note? config?"
    " provenance? supersedes? replaces?",
    **{2: "slot manifest packs needs dropped rule", 3: "slot metrics? note?", 4: "slot add? remove?"},
    **{5: "run policy? modes?", 6: "slot until purpose?", 7: "pins", 8: "slots reason", 9: "slots"},
    **{10: "packs", 11: "packs", 12: "packs replaces", 13: "packs", 14: "slots", 15: "copies", 16: "packs with? heals"},
    18: "format readers? writers?",
}
# Those that may stand in the place of a void entry.
WORDS = {"commit": 1, "amend": 2, "repack": 12, "heal": 16}
FORMAT = 1

def check_fields(value, fields):
    fields = fields.split()
    known = isinstance(value, dict) and list(value) == [f.rstrip("?") for f in fields if f.rstrip("?") in value]
    require(known, "fields that are unknown, or in another order")
    require(all(f.endswith("?") or f in value for f in fields), "a field is missing")
    require(all(value[f] not in (None, []) for f in value if f + "?" in fields), "an empty field")

def hex_id(text, size):
    require(len(text) == 2 * size and text.strip("0123456789abcdef") == "", "an id that is none")
    return bytes.fromhex(text)

def number(value, bits=64):
    require(type(value) is int and 0 <= value < 1 << bits, "a number out of range")
    return value

def pack_id(text):
    save, _, index = text.partition("-")
    require(index.isascii() and index.isdigit() and str(int(index[:20])) == index, "the name of a pack that is none")
    return hex_id(save, 16), number(int(index), 32)

def stored_of_json(value):
    check_fields(value, "id recipe bytes")
    require(value["recipe"] in (True, False), "a flag that is none")
    return value["recipe"], hex_id(value["id"], 32), number(value["bytes"])

class Store:
    def __init__(self, root):
        self.root = root
        config = self.read("treering.json", CONFIG_MAX)
        said = parse_json(config)
        known = said["format"] <= FORMAT and said["hash"] == "blake3" and not said.get("features")
        require(known, "treering.json: a format, a hash or a feature that is unknown here")
        self.id = hex_id(said["store"], 16)
        self.checkpoints, self.packs, self.tags, self.bad = {}, {}, {}, set()
        self.fold(hash_of(config))

    def read(self, key, size_max):
        with open(os.path.join(self.root, key), "rb") as file:
            data = file.read(size_max + 1)
        require(len(data) <= size_max, f"{key}: it is too long")
        return data

    def fold(self, head):
        entries = []
        while os.path.lexists(os.path.join(self.root, key := f"log/{len(entries):020}")):
            data = self.read(key, ENTRY_MAX)
            try:
                entries.append(self.decode(data, len(entries)))
            except REFUSED as why:
                entries.append((why, None, None, None))
        voids = self.voids(entries)
        for slot, (found, previous, save, body) in enumerate(entries):
            try:
                if isinstance(found, Exception):
                    # It is passed if the next one is good and of a known kind: that vouches for it.
                    require(slot + 1 < len(entries) and entries[slot + 1][3], found)
                    found = entries[slot + 1][1]
                if slot in voids:
                    self.apply_instead(slot, voids[slot])
                elif body:
                    require(previous == head, "it does not follow the entry before it")
                    self.apply(slot, save, *body)
                head = found
            except REFUSED as why:
                raise ValueError(f"log/{slot:020}: {why}") from None

    def voids(self, entries):
        """The void slots, each with what takes effect there instead, or None."""
        voids = {}
        for slot, (_, _, _, body) in reversed([*enumerate(entries)]):
            if body and body[0] == 14 and slot not in voids:
                for void in body[1]["slots"]:
                    check_fields(void, "slot entry?")
                    require(number(void["slot"]) < slot, "it makes a later slot void")
                    voids.setdefault(void["slot"], void.get("entry"))
        return voids

    def apply_instead(self, slot, entry):
        if entry:
            check_fields(entry, "save time body")
            [(word, body)] = entry["body"].items()
            check_fields(body, BODIES[WORDS[word]])
            self.apply(slot, hex_id(entry["save"], 16), WORDS[word], body)

    def decode(self, data, slot):
        """The entry's hash, the hash before, the save, and kind and body; no body for an unknown kind."""
        require(len(data) >= 32 and hash_of(data[:-32]) == data[-32:], "its hash is wrong")
        fields = Reader(data[:-32])
        require(fields.bytes(4) == b"TRLG" and fields.number(2) == 0, "not an entry of this version")
        kind = fields.number(2)
        require((fields.bytes(16), fields.number(8)) == (self.id, slot), "it belongs to another store or slot")
        previous, _nonce, save, _times = fields.hash(), fields.bytes(16), fields.bytes(16), fields.bytes(16)
        body = fields.bytes(fields.number(4))
        fields.end()
        if kind not in BODIES:
            return data[-32:], previous, save, None
        value = parse_json(body)
        check_fields(value, BODIES[kind])
        require(spell(value).encode() == body, "a body that is not in its canonical form")
        return data[-32:], previous, save, (kind, value)

    def apply(self, slot, save, kind, said):
        about = self.checkpoints[said["slot"]] if "slot" in said else None
        if kind == 1:
            self.commit(slot, save, said)
        elif kind == 2:
            about.packs, about.manifest = self.needed(save, said), stored_of_json(said["manifest"])
        elif kind == 3:
            about.metrics.update(said.get("metrics", {}))
        elif kind == 4:
            gone = {(about.run, tag) for tag in said.get("remove", [])}
            self.tags = {key: at for key, at in self.tags.items() if key not in gone or at != about.slot}
            self.put_tags(about, said.get("add", []))
        elif kind in (8, 9):
            for other in said["slots"]:
                self.checkpoints[other].status = FORGOTTEN if kind == 8 else KEPT
        elif kind == 12:
            new, old = self.put_packs(save, said["packs"]), self.known(said["replaces"])
            for checkpoint in self.live():
                if checkpoint.packs & old:
                    checkpoint.packs = checkpoint.packs - old | new
        elif kind == 15:
            self.bad |= self.known([copies["pack"] for copies in said["copies"] if "chunks" not in copies])
        elif kind == 16:
            new, damaged = self.put_packs(save, said["packs"]) | self.known(said.get("with", [])), self.known(said["heals"])
            for checkpoint in self.live():
                if checkpoint.packs & damaged:
                    checkpoint.packs |= new
        elif kind == 18:
            require(said["format"] <= FORMAT and not said.get("readers"), "a format or a feature that is unknown here")
        if kind in (10, 12, 13):
            gone = said["replaces"] if kind == 12 else said["packs"]
            self.packs.update((pack_id(name), None) for name in gone)

    def commit(self, slot, save, said):
        commit = SimpleNamespace(slot=slot, run=said["run"], step=number(said["step"]), status=KEPT)
        commit.manifest, commit.packs = stored_of_json(said["manifest"]), self.needed(save, said)
        commit.metrics = dict(said.get("metrics", {}))
        for other in said.get("supersedes", []):
            if other in self.checkpoints and self.checkpoints[other].status == KEPT:
                self.checkpoints[other].status = SUPERSEDED
        if "replaces" in said:
            self.checkpoints[said["replaces"]].status = FORGOTTEN
        self.checkpoints[slot] = commit
        self.put_tags(commit, said.get("tags", []))

    def known(self, names):
        packs = {pack_id(name) for name in names}
        require(packs <= self.packs.keys(), "it speaks of a pack that the log does not know")
        return packs

    def put_packs(self, save, new):
        for said in new:
            check_fields(said, "index bytes footer")
        packs = {(save, number(said["index"], 32)): (number(said["bytes"]), hex_id(said["footer"], 32)) for said in new}
        require(not packs.keys() & self.packs.keys(), "it brings a pack that was there before")
        self.packs.update(packs)
        return set(packs)

    def needed(self, save, said):
        needs = said["needs"]
        check_fields(needs, "base? plus? minus?")
        base = self.checkpoints[needs["base"]] if "base" in needs else None
        require(base is None or base.status != FORGOTTEN, "it builds on a checkpoint that was forgotten")
        packs = (base.packs if base else set()) - self.known(needs.get("minus", [])) | self.known(needs.get("plus", []))
        return packs | self.put_packs(save, said["packs"])

    def live(self): return [c for c in self.checkpoints.values() if c.status != FORGOTTEN]
    def put_tags(self, checkpoint, tags): self.tags.update(((checkpoint.run, tag), checkpoint.slot) for tag in tags)

    def find(self, address):
        run, at, step = address.rpartition("@")
        require(at and step.isascii() and step.isdigit(), f"{address}: write RUN@STEP")
        found = [c for c in self.live() if (c.run, c.step) == (run, int(step))]
        require(found, f"no checkpoint {address}")
        return max(found, key=lambda c: (c.status == KEPT, c.slot))

class Chunks:
    def __init__(self, store, packs):
        self.store, self.places = store, {}
        for pack in sorted(packs - store.bad):
            try:
                self.open(pack)
            except (*REFUSED, FileNotFoundError) as why:
                raise ValueError(f"{self.path(pack)}: {why}") from None
        for places in self.places.values():
            places.sort(key=lambda place: place[:3])

    def path(self, pack):
        name = f"{pack[0].hex()}-{pack[1]}"
        return os.path.join(self.store.root, "packs", name[:2], name)

    def open(self, pack):
        require(self.store.packs[pack], "it was condemned")
        size, footer_hash = self.store.packs[pack]
        with open(self.path(pack), "rb") as file:
            require(file.seek(0, os.SEEK_END) == size >= 88, f"it is not {size} bytes long")
            file.seek(size - 40)
            length, found, magic = struct.unpack("<I32s4s", file.read(40))
            require(magic == b"TRPE" and length <= min(FOOTER_MAX, size - 88), "it does not end as a pack does")
            file.seek(size - 40 - length)
            footer = file.read(length)
        require(hash_of(footer) == found == footer_hash, "its footer is not the one that the log names")
        fields, offset = Reader(footer), 48
        own = fields.number(2) == 0 and fields.bytes(16) == self.store.id
        require(own and (fields.bytes(16), fields.number(4)) == pack, "its footer belongs elsewhere")
        for _ in range(fields.count(47)):
            chunk, (frame_bytes, chunk_bytes, crc) = fields.hash(), struct.unpack("<III", fields.bytes(12))
            codec, depth, bases = fields.bytes(3)
            sound = chunk_bytes <= CHUNK_MAX and depth <= DEPTH_MAX and bases <= BASES_MAX
            require(sound and (bases == 0) == (depth == 0), "a row that is out of bounds")
            head = bytes([codec, depth, bases]) + fields.bytes(32 * bases)
            self.places.setdefault(chunk, []).append((depth, pack, offset, frame_bytes, chunk_bytes, crc, head))
            offset += frame_bytes
        fields.text()
        fields.end()
        require(offset + len(footer) + 40 == size, "its frames do not fill it")

    def read(self, chunk, length=None, below=DEPTH_MAX + 1):
        """The bytes of a chunk, from the first good copy of a depth below that."""
        if chunk == hash_of(b"") and not length:
            return b""
        why = "no pack has it"
        for place in (place for place in self.places.get(chunk, []) if place[0] < below):
            try:
                return self.read_place(chunk, length, *place)
            except REFUSED as failed:
                why = failed
        raise ValueError(f"chunk {chunk.hex()}: {why}")

    def read_place(self, chunk, length, depth, pack, offset, frame_bytes, chunk_bytes, crc, head):
        require(length is None or length == chunk_bytes, f"it is {chunk_bytes} bytes long, not {length}")
        with open(self.path(pack), "rb") as file:
            file.seek(offset)
            frame = file.read(frame_bytes)
        require(zlib.crc32(frame) == crc and frame.startswith(head), "its checksum or its head is wrong")
        require(head[0] in CODECS, f"codec {head[0]} is unknown")
        require(head[2] == (head[0] in BASES), "it has another number of bases than its codec")
        given = chunk_bytes
        if head[2]:
            given = self.read(head[3:], below=depth)
            require(len(given) == BASES[head[0]] * chunk_bytes, "a base of another length")
        data = CODECS[head[0]](frame[len(head) :], given)
        require(len(data) == chunk_bytes and hash_of(data) == chunk, "its bytes have another hash")
        return data

    def pieces(self, stored):
        """The bytes of a stored byte string, chunk by chunk."""
        recipe, id, length = stored
        chunks = [(length, id)]
        if recipe:
            fields = Reader(self.read(id), b"TRRC")
            chunks = fields.many(33, lambda: (fields.varint(), fields.hash()))
            fields.end()
            sizes = [size for size, _ in chunks]
            require(sum(sizes) == length and 0 not in sizes, "a recipe of another length")
        for size, chunk in chunks:
            require(size <= CHUNK_MAX, "a chunk that is too long")
            yield self.read(chunk, size)

    def whole(self, stored): return b"".join(self.pieces(stored))

def unzstd(frame, length):
    require(frame[:4] == b"\x28\xb5\x2f\xfd", "not a zstd frame")
    decoder = zstandard.ZstdDecompressor().decompressobj()
    data = decoder.decompress(frame)
    require(decoder.eof and not decoder.unused_data and len(data) == length, "a zstd frame that does not end here")
    return data

def decode_planes(body, length):
    fields = Reader(body)
    first, modes = fields.number(1), fields.number(2)
    width, rotated = first & 0x7F, first >= 0x80
    require(width in (1, 2, 4, 8) and not (rotated and width == 1), "elements of an unknown shape")
    modes, beyond = [modes >> 2 * k & 3 for k in range(width)], modes >> 2 * width
    require(beyond == 0 and 3 not in modes, "a plane of an unknown mode")
    count, tail = length // width, fields.bytes(length % width)
    planes = numpy.empty((count, width), numpy.uint8)
    # The raw planes come first.
    for k in sorted(range(width), key=lambda k: modes[k] != 0):
        if modes[k] == 1:
            planes[:, k] = fields.number(1)
        else:
            plane = unzstd(fields.bytes(fields.number(4)), count) if modes[k] == 2 else fields.bytes(count)
            planes[:, k] = numpy.frombuffer(plane, numpy.uint8)
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
    words, at = numpy.frombuffer(fields.rest(), "<u2").astype(numpy.int64), 0
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
    def __init__(self, data):
        self.bits, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count):
        require(count <= self.left, "a table that ends too soon")
        number, self.bits, self.left = self.bits & (1 << count) - 1, self.bits >> count, self.left - count
        return number

    def end(self): require(self.left < 8 and self.bits == 0, "bits behind a table")

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

# Those that take a base, some times as long as the chunk, get its bytes in the place of the length.
CODECS = {1: decode_planes, 2: unzstd, 3: decode_delta, 4: decode_cast, 5: decode_patch, 0: lambda body, _: bytes(body)}
BASES = {3: 1, 4: 2, 5: 1}

class Manifest:
    def __init__(self, store, address):
        checkpoint = store.find(address)
        self.chunks = chunks = Chunks(store, checkpoint.packs)
        fields = Reader(chunks.whole(checkpoint.manifest), b"TRMR")
        self.folder, schema = fields.flag(), fields.stored()
        components = fields.many(2, lambda: (fields.flag(), fields.many(32, fields.hash)))
        self.files = fields.many(2, lambda: (fields.path(), fields.optional()))
        self.side_files = fields.many(35, lambda: (fields.path(), fields.stored()))
        self.state = fields.optional()
        fields.end()
        names = self.read_schema(chunks.whole(schema))
        require(len(components) == len(names), "root and schema differ")
        self.dropped = [name for name, (present, _) in zip(names, components) if not present]
        for component, (present, blocks) in enumerate(components):
            ids = [id for block in blocks for id in self.block(block)]
            tensors = [tensor for tensor in self.tensors if tensor.component == component]
            require(len(ids) == (len(tensors) if present else 0), "tensors without ids, or ids without tensors")
            for tensor, (recipe, id) in zip(tensors, ids):
                tensor.stored = recipe, id, tensor.size

    def block(self, chunk):
        fields = Reader(self.chunks.read(chunk), b"TRMB")
        ids = fields.many(33, lambda: (fields.flag(), fields.hash()))
        fields.end()
        return ids

    def read_schema(self, data):
        fields = Reader(data, b"TRMS", newest=1)
        components, files, dtypes = fields.many(1, fields.text), fields.varint(), fields.many(1, fields.text)
        require(files == len(self.files), "root and schema differ")
        self.tensors = []
        for n in range(fields.count(7)):
            component, file, name, dtype = fields.varint(), fields.varint(), fields.text(), fields.varint()
            shape, size, alias = fields.many(1, fields.varint), fields.varint(), fields.varint()
            known = component < len(components) and file < files and dtype < len(dtypes)
            in_order = n == 0 or self.tensors[-1].component <= component
            require(known and in_order and len(shape) <= RANK_MAX and alias <= n, "a tensor that cannot be here")
            numbers = lambda: [fields.varint() for _ in shape]
            boxes = fields.many(2 * len(shape), lambda: (numbers(), numbers())) if fields.version else []
            facts = dict(component=component, file=file, name=name, dtype=dtypes[dtype], shape=shape, size=size, boxes=boxes)
            self.tensors.append(SimpleNamespace(**facts))
        fields.end()
        return components

    def outputs(self):
        """For each file its name and, in order, what it is made of: bytes, or byte strings of the store."""
        require(not self.dropped, f"components were dropped: {', '.join(self.dropped)}")
        if all(header is not None for _, header in self.files):
            files = [(name, self.parts(n, header)) for n, (name, header) in enumerate(self.files)]
        else:
            files = [("model.safetensors", self.made())]
        return files + [(name, [stored]) for name, stored in self.side_files]

    def parts(self, file, header):
        """The header as it was, and the tensors in its order."""
        data = self.chunks.whole(header)
        left = {tensor.name: tensor for tensor in self.tensors if tensor.file == file}
        said = parse_json(data[8:])
        require(int.from_bytes(data[:8], "little") == len(data) - 8 <= HEADER_MAX, "a header of another length")
        said.pop("__metadata__", None)
        require(said.keys() == left.keys(), "a header that does not fit the schema")
        end, parts = 0, [data]
        for name, entry in sorted(said.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = end, end + left[name].size
            require(entry["data_offsets"] == [begin, end], "a header that does not fit the schema")
            parts.append(left[name].stored)
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
        return [len(text).to_bytes(8, "little") + text] + [self.in_order(tensor) for tensor in self.tensors]

    def in_order(self, tensor):
        """A tensor: as it is stored, or its bytes if those were stored box by box."""
        if not tensor.boxes:
            return tensor.stored
        width, rest = divmod(tensor.size, max(1, math.prod(tensor.shape)))
        require(not rest, "boxes of elements that are no whole bytes")
        data, at = numpy.frombuffer(self.chunks.whole(tensor.stored), numpy.uint8), 0
        whole, times = numpy.empty((*tensor.shape, width), numpy.uint8), numpy.zeros(tensor.shape, numpy.uint8)
        for offsets, lengths in tensor.boxes:
            inside = all(offset + length <= end for offset, length, end in zip(offsets, lengths, tensor.shape))
            size = math.prod(lengths) * width
            require(inside and at + size <= len(data), "a box outside its tensor")
            box = tuple(slice(offset, offset + length) for offset, length in zip(offsets, lengths))
            whole[box] = data[at : at + size].reshape(*lengths, width)
            times[box] += 1
            at += size
        require((times == 1).all(), "boxes that do not hold each element once")
        return whole.tobytes()

def show(store):
    for c in store.live():
        tags = sorted(tag for (_, tag), slot in store.tags.items() if slot == c.slot)
        metrics = {n: float(v) if isinstance(v, Fraction) else v for n, v in sorted(c.metrics.items())}
        print(json.dumps({"run": c.run, "step": c.step, "status": c.status, "metrics": metrics, "tags": tags}))

def restore(manifest, output):
    require(not os.path.lexists(output), f"{output}: it exists")
    outputs, output = manifest.outputs(), os.path.abspath(output)
    with tempfile.TemporaryDirectory(prefix=".treering-", dir=os.path.dirname(output)) as temporary:
        whole = os.path.join(temporary, "out")
        for name, parts in outputs:
            path = os.path.join(whole, name) if manifest.folder or len(outputs) > 1 else whole
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                for part in parts:
                    file.writelines([part] if isinstance(part, bytes) else manifest.chunks.pieces(part))
        os.rename(whole, output)

def main(arguments):
    match arguments:
        case [root, "list"]:
            show(Store(root))
        case [root, "restore", address, output]:
            restore(Manifest(Store(root), address), output)
        case [root, "state", address]:
            manifest = Manifest(Store(root), address)
            require(manifest.state is not None, f"{address} has no state")
            print(manifest.chunks.whole(manifest.state).decode())
        case _:
            raise ValueError("usage: treering_reader.py STORE list | restore RUN@STEP OUT | state RUN@STEP")

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (*REFUSED, OSError) as error:
        sys.exit(f"treering_reader: {' '.join(str(error).split())}")
