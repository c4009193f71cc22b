"""Expected decode throughput of a chain of stages: flow is not throughput.

Every token of a sequence crosses every stage before the next one can start, and a sequence holds
its KV cache the whole time. So the rate X of a chain follows from Little's law: sequences that fit
= X * (round trip + time to first token / tokens of an answer). Sequences travel in convoys: whoever
waits behind a prompt leaves with all others that do. The first of a convoy starts a batch of its
own, the rest wait for it and run as the next one; a convoy that has caught up with a prompt, which
is slower, stays behind it for as long as they go to the same node. Knows classes and stages; no
nodes, no clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from .staged import NodeClass, Stage

CONVOY = 0.4
"""Share of all sequences that travel together, as a sequence sees it; from simulations of chains of
9 to 24 stages.
"""

_MOST_BATCH = 400.0
_BUSY = 0.95
_NEAR = 1e-6
_LEAST = 0.05
_NEVER = 1e6

Share = tuple[int, float, float]
"""A class, its nodes at work, and the part of all sequences that each of them serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds of one layer against tokens in the batch; straight between points, and beyond the
    last one at its rate per token.
    """

    tokens: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, tokens: float) -> float:
        """Return seconds of one layer for `tokens` in the batch."""
        i = bisect_right(self.tokens, tokens)
        if i == 0:
            return self.seconds[0]
        if i == len(self.tokens):
            return self.seconds[-1] * tokens / self.tokens[-1] if self.tokens[-1] else 0.0
        x, y = self.tokens, self.seconds
        return y[i - 1] + (y[i] - y[i - 1]) * (tokens - x[i - 1]) / (x[i] - x[i - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one node class does with layers of the model.

    Attributes:
        kv_tokens: tokens that fit into the KV cache of one node when it holds 1, 2, ... layers,
            each token in all of them.
        decode: seconds a layer against sequences in a decode batch.
        prompt: seconds a layer against prompt tokens in the batch.
    """

    kv_tokens: tuple[float, ...]
    decode: Curve
    prompt: Curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Length of requests, and how full caches are run.

    Attributes:
        resident_tokens: mean tokens of KV that an admitted request reserves, weighted by how long
            it stays: more than prompt + output, because long answers stay longest.
        spread: mean of the squared prompt length over the square of its mean.
        full: share of a layer's KV cache that is filled.
        full_node: share of one node's KV cache that is filled at most.
    """

    prompt_tokens: float = 750.0
    output_tokens: float = 240.0
    resident_tokens: float = 1120.0
    spread: float = 1.4
    full: float = 0.8
    full_node: float = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What crossing from one stage to the next costs.

    Attributes:
        hop_s: latency between classes, `hop_s[a][b]`; the last row and column are the coordinator.
        bytes_per_s: bandwidth of one link, likewise.
        activation_bytes: of one token, between nodes.
        token_bytes: of one token, from and to the coordinator.
        host_bytes_per_s: rate at which a node copies activations in and out.
    """

    hop_s: tuple[tuple[float, ...], ...]
    bytes_per_s: tuple[tuple[float, ...], ...]
    activation_bytes: float
    token_bytes: float = 2.0
    host_bytes_per_s: float = 2.2e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is expected of a chain: tokens/s of all answers together, seconds to the first token,
    seconds between tokens, sequences at once.
    """

    decode_tokens_per_s: float
    ttft_s: float
    token_s: float
    sequences: float


@dataclass(slots=True)
class Decoder:
    """Evaluates chains of one model on one set of classes; remembers what it computed."""

    classes: tuple[NodeClass, ...]
    profiles: tuple[Profile, ...]
    workload: Workload
    wire: Wire
    _used: dict[tuple[Stage, float], tuple[tuple[Share, ...], float]] = field(default_factory=dict)
    _steps: dict[tuple[int, int, float], tuple[float, float, float]] = field(default_factory=dict)

    def outlook(self, chain: Sequence[Stage], flow: float) -> Outlook:
        """Return what to expect of a chain routed along a maximum flow of `flow` tokens/s."""
        sequences = self.sequences(chain, flow)
        low, high = 0.0, self.capacity(chain, flow)
        for _ in range(24):
            rate = (low + high) / 2
            fits = rate * self._held(*self.times(chain, flow, rate)) <= sequences
            low, high = (rate, high) if fits else (low, rate)
        token_s, ttft_s = self.times(chain, flow, low)
        return Outlook(decode_tokens_per_s=low, ttft_s=ttft_s, token_s=token_s, sequences=sequences)

    def rate_at(self, chain: Sequence[Stage], flow: float, rate: float) -> float:
        """Return the rate that the caches allow if waiting were as at `rate`; it compares chains as
        the outlook does, for a twentieth of its cost.
        """
        held_s = self._held(*self.times(chain, flow, rate))
        fits = self.sequences(chain, flow) / held_s if held_s > 0 else 0.0
        return min(fits, self.capacity(chain, flow))

    def capacity(self, chain: Sequence[Stage], flow: float) -> float:
        """Return the rate at which some node is busy all the time: what more sequences cannot
        raise.
        """
        convoy = CONVOY * self.sequences(chain, flow)
        busy_s = 0.0
        for stage in chain:
            for c, _, share in self._nodes(stage, flow)[0]:
                batch = min(max(convoy * share, 1.0), _MOST_BATCH)
                _, batch_s, prompt_s = self._seconds(c, stage.layers, batch)
                of_prompt_s = prompt_s / self.workload.output_tokens
                busy_s = max(busy_s, share * (of_prompt_s + batch_s / batch))
        return _BUSY / busy_s if busy_s > 0 else 0.0

    def sequences(self, chain: Sequence[Stage], flow: float) -> float:
        """Return how many sequences fit at once: the stage with the least KV cache decides."""
        return min(self._nodes(stage, flow)[1] for stage in chain) / self.workload.resident_tokens

    def _held(self, token_s: float, ttft_s: float) -> float:
        return token_s + ttft_s / self.workload.output_tokens

    def times(self, chain: Sequence[Stage], flow: float, rate: float) -> tuple[float, float]:
        """Return seconds between tokens and to the first token when the chain decodes `rate`
        tokens/s.
        """
        convoy = CONVOY * self.sequences(chain, flow)
        outside: tuple[Share, ...] = ((len(self.classes), 1.0, 1.0),)
        token_s = ttft_s = behind = 0.0
        last = outside
        for stage in chain:
            nodes = self._nodes(stage, flow)[0]
            hop_s, sent_s, behind = self._hop(last, nodes, behind, convoy, rate)
            step_s, first_s, behind = self._cross(stage.layers, nodes, behind, convoy, rate)
            token_s, ttft_s, last = token_s + hop_s + step_s, ttft_s + sent_s + first_s, nodes
        hop_s, sent_s, _ = self._hop(last, outside, 0.0, convoy, rate)
        return token_s + hop_s, ttft_s + sent_s

    def _cross(
        self, layers: int, nodes: tuple[Share, ...], behind: float, convoy: float, rate: float
    ) -> tuple[float, float, float]:
        """Return seconds of a token and of a prompt in a stage, and the share of tokens that leave
        it behind a prompt.
        """
        token_s = ttft_s = caught = 0.0
        for c, n, share in nodes:
            batch = min(max(convoy * share, 1.0), _MOST_BATCH)
            lone_s, batch_s, prompt_s = self._seconds(c, layers, batch)
            prompts = rate * share / self.workload.output_tokens
            prompting = min(_BUSY, prompts * prompt_s)
            decoding = min(1 - prompting, rate * share / batch * (lone_s + batch_s))
            others_s = decoding * batch_s
            alone_s = lone_s + batch_s + others_s
            joins = min(1.0, prompts * lone_s)
            follows = min(1.0, behind * share)
            # A convoy meets only the prompts that it overtakes: none where prompts are as fast.
            overtakes = prompting * max(0.0, 1 - alone_s / prompt_s)
            free_s = lone_s + others_s + (prompting / 2 + joins) * prompt_s
            token_s += n * share * (batch_s + follows * prompt_s + (1 - follows) * free_s)
            ttft_s += n * share * (prompt_s * (1 + prompting / 2) + decoding * batch_s / 2)
            caught += n * share * (follows + (1 - follows) * min(1.0, overtakes + joins))
        return token_s, ttft_s, caught

    def _seconds(self, c: int, layers: int, batch: float) -> tuple[float, float, float]:
        """Return seconds that a node takes for the first of a convoy, for the rest of it, and for a
        prompt.
        """
        key = (c, layers, batch)
        if key not in self._steps:
            profile, prompt = self.profiles[c], self.workload.prompt_tokens
            copy_s = self.wire.activation_bytes / self.wire.host_bytes_per_s
            self._steps[key] = (
                layers * profile.decode.at(2.0),
                layers * profile.decode.at(max(batch, 2.0)) + copy_s * batch,
                layers * profile.prompt.at(prompt) + copy_s * prompt,
            )
        return self._steps[key]

    def _hop(
        self,
        left: tuple[Share, ...],
        right: tuple[Share, ...],
        behind: float,
        convoy: float,
        rate: float,
    ) -> tuple[float, float, float]:
        """Return the same as `_cross`, of the links between two stages: one sends one thing at a
        time, and a prompt is large.
        """
        outside, wire = len(self.classes), self.wire
        token_s = ttft_s = caught = 0.0
        for a, n_a, share_a in left:
            for b, n_b, share_b in right:
                size = wire.token_bytes if outside in (a, b) else wire.activation_bytes
                each_s = size / wire.bytes_per_s[a][b] if wire.bytes_per_s[a][b] > 0 else _NEVER
                send_s = each_s * self.workload.prompt_tokens
                part = share_a * share_b
                sending = min(_BUSY, part * rate / self.workload.output_tokens * send_s)
                queue_s = each_s * (1 + convoy * part)
                wait_s = sending / (1 - sending) * send_s * self.workload.spread / 2
                follows = min(1.0, behind * share_b)
                overtakes = sending * max(0.0, 1 - queue_s / send_s)
                part *= n_a * n_b
                free_s = (1 - follows) * wait_s
                token_s += part * (
                    wire.hop_s[a][b] + queue_s + follows * (send_s + wait_s) + free_s
                )
                ttft_s += part * (wire.hop_s[a][b] + send_s + wait_s)
                caught += part * overtakes
        return token_s, ttft_s, behind + (1 - behind) * min(1.0, caught)

    def _nodes(self, stage: Stage, flow: float) -> tuple[tuple[Share, ...], float]:
        """Return the nodes at work with the share of each, and the KV tokens of a stage.

        A maximum flow fills some nodes, gives one the rest and may leave others idle; here the
        fastest are filled first.
        """
        key = (stage, flow)
        if key not in self._used:
            nodes: list[Share] = []
            missing = flow
            for c in sorted(range(len(stage.counts)), key=lambda c: -self._tokens(c, stage)):
                tokens = self._tokens(c, stage)
                full = min(stage.counts[c], int(missing / tokens + _NEAR)) if tokens > 0 else 0
                missing = max(0.0, missing - full * tokens)
                if full:
                    nodes.append((c, float(full), tokens / flow))
                if full < stage.counts[c] and missing > _LEAST * flow and tokens > 0:
                    nodes.append((c, 1.0, min(1.0, missing / flow)))
                    missing = 0.0
            self._used[key] = (tuple(nodes), self._cache(stage, nodes))
        return self._used[key]

    def _tokens(self, c: int, stage: Stage) -> float:
        return self.classes[c].of(stage.layers)

    def _cache(self, stage: Stage, nodes: Sequence[Share]) -> float:
        """Return the KV tokens of sequences that a stage holds: all of its nodes together, and what
        is left when those at work fill up.
        """

        def tokens(c: int) -> float:
            return self.profiles[c].kv_tokens[stage.layers - 1]

        every = sum(n * tokens(c) for c, n in enumerate(stage.counts) if n)
        at_work = sum(n * tokens(c) for c, n, _ in nodes)
        return min(self.workload.full * every, self.workload.full_node * at_work)
