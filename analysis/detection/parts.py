"""The parts of one layer: its heads, what else it has, and the points of the stream between them.

A module inside the layer reads the stream, or a norm of it, or it reads what another part gave. A
new point is found where a module reads, or the layer returns, a sum of the stream and of what parts
gave (analysis/detection/points.py): the parts that are in the sum have written there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from analysis.detection.norms import NormForm, closed_form, is_map, require_norm, tolerance
from analysis.detection.plan import NodePlan, NormPlan, TapPlan, Update
from analysis.detection.points import Numbers, multiple, solve
from analysis.detection.trace import Call, Face, LayerTrace, is_linear, same
from analysis.models.anatomy import Unsupported, in_force


@dataclass(eq=False)
class Read:
    """What a module was given: scale * norm(stream at a point), or the stream itself."""

    norm: NormRead | None
    scale: float
    point: int


@dataclass(eq=False)
class NormRead:
    """A norm of the stream at a point, without a form a map of it, and the taps that read it."""

    call: Call
    form: NormForm | None
    point: int
    attended: bool = False
    taps: list[Tap] = field(default_factory=list)

    @property
    def plan(self) -> NormPlan:
        return NormPlan(self.call.name, self.form)


@dataclass(eq=False)
class Tap:
    """A part that reads the stream and is no attention."""

    call: Call
    read: Read


@dataclass(eq=False)
class Attention:
    """An attention: the module, its output projection, and the linears that read the stream."""

    face: Face
    o_proj: Call
    n_heads: int
    readers: list[tuple[Call, Read]]
    single: bool  # one call of the interface: q, k and v can be seen there
    after: NormPlan | str | None = None
    point: int | None = None
    kind: str = "softmax"


@dataclass(eq=False)
class Term:
    """What a part gave. taps: where it comes from, None if unknown. over: what it is made of."""

    call: Call
    y: torch.Tensor
    taps: list[Tap] | None = None
    attention: Attention | None = None
    superseded: bool = False
    used: bool = False


@dataclass(eq=False)
class Parts:
    """What was found of one layer."""

    updates: list[Update]
    attentions: list[Attention]
    nodes: list[NodePlan]
    mixers: dict[int, Attention]  # by node: what may have heads, if that node mixes tokens


def find_parts(trace: LayerTrace, numbers: Numbers, where: str) -> Parts:
    """The parts of a traced layer.

    Raises:
        Unsupported: the layer is not a sum of parts that read the stream; the message says where.
    """
    return _Walk(trace, numbers, where).parts()


class _Walk:
    """Goes through a layer's modules in their order."""

    def __init__(self, trace: LayerTrace, numbers: Numbers, where: str) -> None:
        self.trace, self.numbers, self.where = trace, numbers, where
        assert trace.call.x is not None
        self.shape = trace.call.x.shape
        self.streams = [trace.call.x]
        self.norms: list[NormRead] = []
        self.terms: list[Term] = []
        self.taps: list[Tap] = []
        self.updates: list[Update] = []
        self.attentions: list[Attention] = []
        self.nodes: list[NodePlan] = []
        self.mixers: dict[int, Attention] = {}
        self.faces: dict[int, list[Face]] = {}
        for face in trace.faces or trace.softmaxes:
            self.faces.setdefault(id(face.call), []).append(face)

    def parts(self) -> Parts:
        if self.trace.beside:
            raise Unsupported(
                f"{self.where}: beside the residual stream it is given {self.trace.beside[0]}, "
                "which depends on the tokens (embeddings for each layer, or a second stream), so "
                "that the sources are not all that reaches it; not supported"
            )
        for call in self._expanded(self.trace.call):
            self._visit(call)
        assert self.trace.call.y is not None
        if not self._advance(self.trace.call.y, last=True):
            raise Unsupported(
                f"{self.where}: what it returns is not the residual stream plus the outputs of its "
                "parts, so nothing can be said to be written by one of them"
            )
        for attention in self.attentions:
            if attention.point is None:
                raise Unsupported(
                    f"{self.where}: what {attention.o_proj.name} writes does not reach the "
                    "residual stream as it is, so its heads can't be told apart there"
                )
        return Parts(self.updates, self.attentions, self.nodes, self.mixers)

    def _expanded(self, call: Call) -> Iterator[Call]:
        """The calls that a layer is made of.

        A wrapper that reads the stream and holds the attention is opened.
        """
        for kid in call.kids:
            holds = any(id(inside) in self.faces for inside in kid.inside())
            if holds and id(kid) not in self.faces and same(kid.x, self.streams[0]):
                yield from self._expanded(kid)
            else:
                yield kid

    def _visit(self, call: Call) -> None:
        if call.x is None or call.y is None:
            return
        read = self._known(call.x)
        if read is not None and self._is_norm(call, read):
            return  # before what follows: a norm may give back what was normed already
        if same(call.y, call.x) and not any(True for _ in call.module.parameters()):
            return  # dropout, identity
        faces = self._faces_in(call)
        new = read is None and not self._follows(call) and self._streamlike(call.x)
        if new and self._advance(call.x):
            read = self._known(call.x)
        if faces:
            for own in faces:
                self._attention(call, read, own)
        elif read is None:
            self._further(call)
        elif read.norm is None and self._added(call, self.streams[read.point]) is not None:
            for kid in call.kids:  # a block of its own, with its own norm and sum
                self._visit(kid)
        elif not (new and self._is_norm(call, read)):
            self._branch(call, read)

    def _faces_in(self, call: Call) -> list[list[Face]]:
        """The calls of the interface in a module, by the attention that makes them."""
        return [self.faces[id(c)] for c in (call, *call.inside()) if id(c) in self.faces]

    def _streamlike(self, x: torch.Tensor) -> bool:
        return x.numel() == self.shape.numel() and x.shape[-1] == self.shape[-1]

    def _known(self, x: torch.Tensor | None) -> Read | None:
        """What x is of the stream, if it is a point of it or (a multiple of) a norm of one."""
        if x is None or not self._streamlike(x):
            return None
        for norm in reversed(self.norms):
            if same(x, norm.call.y):
                return Read(norm, 1.0, norm.point)
        for point in reversed(range(len(self.streams))):
            if same(x, self.streams[point]):
                return Read(None, 1.0, point)
        for norm in reversed(self.norms):
            assert norm.call.y is not None
            scale = multiple(x, norm.call.y, self.numbers)
            if scale is not None:
                return Read(norm, scale, norm.point)
        return None

    def _follows(self, call: Call) -> bool:
        """Whether a module reads what a part gave."""
        return any(same(call.x, term.y) for term in self.terms)

    # ------------------------------------------------------------------ points

    def _advance(self, target: torch.Tensor, last: bool = False) -> bool:
        """Make a tensor the next point of the stream, if it is a sum of what is there."""
        open_terms = [term for term in self.terms if not term.used]
        likely = [i for i, term in enumerate(open_terms) if not term.superseded]
        if not open_terms and not last:
            return False
        stream = self.streams[-1].reshape(self.shape)
        found = solve(
            target.reshape(self.shape),
            stream,
            [term.y for term in open_terms],
            likely,
            self.numbers,
        )
        if found is None:
            return False
        kept = torch.as_tensor(found.kept).abs().min()
        if float(kept) < 1e-6 or not (found.used or last):  # the stream does not go on through it
            return False
        used = [open_terms[index] for index in found.used]
        point = len(self.streams)
        shares = {open_terms[i].call.name: found.shares[i] for i in found.used}
        self.updates.append(Update(found.kept, shares))
        self.streams.append(target)
        for term in used:
            term.used = True
            if term.attention is not None:
                term.attention.point = point
        rest = [term for term in used if term.attention is None]
        if rest:
            self._node(rest, point, last)
        return True

    def _node(self, terms: list[Term], point: int, last: bool) -> None:
        """What has just been written by other parts than heads is one node."""
        own = [tap for term in terms for tap in term.taps or ()]
        known = not last and all(term.taps is not None for term in terms)
        now = [tap for tap in self.taps if tap in own] if known else self.taps
        self.taps = [tap for tap in self.taps if tap not in now]
        taps = list(dict.fromkeys(self._tap(tap, now) for tap in now))
        if last:  # norms that something reads without a module of its own
            unread = [n for n in self.norms if not n.attended and not n.taps]
            taps += [TapPlan(n.call.name, n.point, None, 1.0) for n in unread]
        if not taps:
            raise Unsupported(
                f"{self.where}: {terms[0].call.name} reads neither the residual stream, nor a norm "
                "of it, nor what another part gave, and writes into the stream"
            )
        if len(terms) == len(now) == len(taps) == 1 and terms[0].call is now[0].call:
            mixer = self._mixer(now[0], point)
            if mixer is not None:
                self.mixers[len(self.nodes)] = mixer
        self.nodes.append(NodePlan("m", tuple(taps), tuple(t.call.name for t in terms), point))

    def _mixer(self, tap: Tap, point: int) -> Attention | None:
        """A part as an attention whose heads are not known yet, if it reads by linears only."""
        inside = list(tap.call.inside())
        face = Face(tap.call, -1, 0)
        ends = [c for c in inside if _outermost_linear(c, tap.call) and same(c.y, tap.call.y)]
        if not ends:
            return None
        readers = [
            (call, tap.read)
            for call in inside
            if same(call.x, tap.call.x) and _outermost_linear(call, tap.call)
        ]
        names = {call.name for call, _ in readers}
        others = [
            call
            for call in inside
            if same(call.x, tap.call.x)
            and call.name not in names
            and not any(above.name in names for above in call.above())
            and not any(below.name in names for below in call.inside())
            and any(True for _ in call.module.parameters())
        ]
        if others or not readers:
            return None
        return Attention(face, ends[-1], 0, readers, False, point=point, kind="linear")

    def _tap(self, tap: Tap, of_node: list[Tap]) -> TapPlan:
        """A norm that only one node reads is the tap itself."""
        norm = tap.read.norm
        if norm is None:
            return TapPlan(tap.call.name, tap.read.point, None, 1.0)
        if not norm.attended and all(other in of_node for other in norm.taps):
            return TapPlan(norm.call.name, norm.point, None, 1.0)
        return TapPlan(tap.call.name, norm.point, norm.plan, tap.read.scale)

    # ------------------------------------------------------------------ parts

    def _is_norm(self, call: Call, read: Read) -> bool:
        """Note a norm of the stream; False for anything else that reads it."""
        if read.norm is not None or call.y is None or call.y.shape != call.x.shape:  # type: ignore[union-attr]
            return False
        form = closed_form(call.module, call.x)  # type: ignore[arg-type]
        if form is not None:
            self.norms.append(NormRead(call, form, read.point))
        return form is not None

    def _branch(self, call: Call, read: Read) -> None:
        """A part that reads the stream, and is neither norm nor attention."""
        tap = Tap(call, read)
        self.taps.append(tap)
        if read.norm is not None:
            read.norm.taps.append(tap)
        self._give(call, [tap])

    def _give(self, call: Call, taps: list[Tap] | None) -> None:
        """A part's output as a term; of a module that adds the stream itself, what it adds."""
        assert call.y is not None
        if not self._streamlike(call.y):
            return
        for stream in self.streams[::-1]:
            if any(same(other, stream) for other in call.others):
                inner = self._added(call, stream)
                call = call if inner is None else inner
                break
        assert call.y is not None
        self.terms.append(Term(call, call.y.reshape(self.shape), taps))

    def _added(self, call: Call, stream: torch.Tensor) -> Call | None:
        """The call inside a module whose output it adds to the stream itself, if it does."""
        if call.y is None or not self._streamlike(call.y):
            return None
        for inner in reversed(list(call.inside())):
            if inner.y is not None and self._streamlike(inner.y):
                total = stream.reshape(self.shape) + inner.y.reshape(self.shape)
                if same(call.y, total):
                    return inner
        return None

    def _further(self, call: Call) -> None:
        """A module that reads what a part gave, or something else that is not the stream."""
        assert call.x is not None and call.y is not None
        source = next((t for t in reversed(self.terms) if same(call.x, t.y)), None)
        if source is None or source.attention is None:
            if self._streamlike(call.y):
                self._give(call, None if source is None else source.taps)
                if source is not None:
                    source.superseded = True
            return
        if not self._streamlike(call.y) or same(call.x, call.y):
            return
        attention = source.attention
        if attention.after is not None:
            raise Unsupported(
                f"{self.where}: two modules, {attention.after} and {call.name}, stand between the "
                "heads and the residual stream, and only one can be accounted for"
            )
        attention.after = self._after(call)
        source.call, source.y = call, call.y.reshape(self.shape)

    def _after(self, call: Call) -> NormPlan | str:
        """What stands between an output projection and the stream: a norm, or a linear module."""
        assert call.x is not None
        form = closed_form(call.module, call.x)
        if form is not None:
            return NormPlan(call.name, form)
        if _additive(call.module, call.x):
            return call.name
        what = f"{self.where}, between the heads and the residual stream"
        return NormPlan(call.name, require_norm(None, call.module, what))

    def _attention(self, call: Call, read: Read | None, faces: list[Face]) -> None:
        """An attention inside a part of the layer (or that part itself)."""
        face = faces[0]
        inside = list(face.call.inside())
        single = bool(self.trace.faces) and len(faces) == 1
        o_proj = self._output_projection(face, inside)
        readers = self._readers(face, inside, o_proj)
        if not readers:
            unknown = face.call.x if call is face.call else call.x
            norm = next((c for c in self.trace.call.inside() if same(c.y, unknown)), None)
            by = "" if norm is None else f" ({type(norm.module).__name__} gives it)"
            raise Unsupported(
                f"{self.where}: the attention reads neither the residual stream nor a norm of "
                f"it{by}"
            )
        width = o_proj.x.shape[-1]  # type: ignore[union-attr]
        n_heads = self._n_heads(faces, width, single)
        attention = Attention(face, o_proj, n_heads, readers, single)
        for _, found in readers:
            if found.norm is not None:
                found.norm.attended = True
        self.attentions.append(attention)
        assert o_proj.y is not None
        self.terms.append(Term(o_proj, o_proj.y.reshape(self.shape), None, attention))
        own = set(map(id, o_proj.inside()))
        for later in inside:
            past = later.order > o_proj.order and id(later) not in own and later.y is not None
            if past and self._follows(later) and not same(later.x, later.y):
                self._further(later)

    def _n_heads(self, faces: list[Face], width: int, single: bool) -> int:
        """How many heads the input of an output projection holds."""
        n_heads = max(face.heads for face in faces)
        if single and faces[0].width is not None and width != n_heads * faces[0].width:
            raise Unsupported(
                f"{self.where}: {n_heads} heads give {faces[0].width} numbers each, and the output "
                f"projection takes {width}"
            )
        if width % n_heads:
            raise Unsupported(
                f"{self.where}: the {width} numbers that enter the output projection don't divide "
                f"into {n_heads} heads"
            )
        return n_heads

    def _output_projection(self, face: Face, inside: list[Call]) -> Call:
        """The last outermost linear after the mixing that gives what the stream is made of."""
        found = [
            call
            for call in inside
            if _outermost_linear(call, face.call)
            and call.order > face.order
            and call.y is not None
            and call.x is not None
            and self._streamlike(call.y)
        ]
        if not found:
            raise Unsupported(
                f"{self.where}: no output projection was found in "
                f"{type(face.call.module).__name__} ({face.call.name})"
            )
        return found[-1]

    def _readers(self, face: Face, inside: list[Call], o_proj: Call) -> list[tuple[Call, Read]]:
        """The linears of an attention that read the stream or a norm of it."""
        found = []
        for call in inside:
            if _outermost_linear(call, face.call) and call.order < o_proj.order:
                read = self._known(call.x) or self._mapped(call.x)
                if read is not None:
                    found.append((call, read))
        return found

    def _mapped(self, x: torch.Tensor | None) -> Read | None:
        """What x is of the stream, if a part of its own was taken for one and is a map to it.

        A gated norm is no norm that is known, and only who reads it tells that it is no MLP.
        """
        for term in self.terms:
            tap = term.taps[0] if term.taps is not None and len(term.taps) == 1 else None
            if tap is None or tap.call is not term.call or not same(x, term.y):
                continue
            call, read = tap.call, tap.read
            free = read.norm is None and not (term.used or term.superseded) and tap in self.taps
            if not free or not is_map(call.module, call.x, call.y):  # type: ignore[arg-type]
                continue
            self.terms.remove(term)
            self.taps.remove(tap)
            self.norms.append(NormRead(call, None, read.point))
            return Read(self.norms[-1], 1.0, read.point)
        return None


def _outermost_linear(call: Call, below: Call) -> bool:
    """Whether a call is that of a linear module, and not of a part of one with adapters."""
    if not is_linear(call.module):
        return False
    for above in call.above():
        if above is below:
            return True
        if is_linear(above.module):
            return False
    return True


@torch.no_grad()
def _additive(module: Any, x: torch.Tensor) -> bool:
    """Whether a module is a linear map with a constant, which may mix tokens."""
    module = in_force(module)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    try:
        zero, a, b, both = (module.forward(part) for part in (0 * x, x, other, x + other))
    except (TypeError, RuntimeError, ValueError):
        return False
    if not isinstance(zero, torch.Tensor):
        return False
    off = ((both - zero) - (a - zero) - (b - zero)).abs().max()
    limit = max(1e-4, 2 * tolerance(x.dtype))
    return bool(off <= limit * both.abs().max())
