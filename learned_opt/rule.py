"""The update rule as one pure function of meta-parameters, state, gradients and parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernattn.keeping import may_be_kept
from learned_opt.architecture import RuleConfig
from learned_opt.head import MAX_LOG_GAIN, Head
from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.orthogonal import Shaping
from learned_opt.progress import annealed, progress_features
from learned_opt.selection import Members, State, of_columns, put_together, selected
from learned_opt.sharding import Sharding
from learned_opt.tokens import shape_features, tokenise

_CPU = torch.device("cpu")
EXPONENT = "head.root_exponent"
GAIN_OF_VECTORS = "head.shape_gain"


class UpdateRule:
    """Tokens, memory, head and scale: the same function for every parameter.

    A rule at its initial meta-parameters gives Adam's direction (betas .9 and .999 by default) with bias
    correction. It holds no tensors but those, where vectors go by them.

    Args:
        config: The architecture.
    """

    def __init__(self, config: RuleConfig | None = None) -> None:
        self.config = config or RuleConfig()
        self.memory = self.config.memory.build()
        self.head = Head(
            heads=self.memory.heads,
            hidden=self.config.hidden,
            directions=self.config.directions,
            scale=self.config.scale,
            progress=self.config.progress,
            factored=self.config.factored,
            activation=self.config.activation,
            shapes=self.config.shapes,
            sized=not self.config.spectral,
        )
        self._adam: dict[tuple[torch.device, torch.dtype], Meta] = {}
        if self.config.vectors == "adam":
            kinds = (torch.float32, torch.float64)
            with torch.inference_mode(False):  # else they were of no use outside it
                self._adam = {(_CPU, dtype): self.init_meta(dtype=dtype) for dtype in kinds}

    @property
    def floats_per_parameter(self) -> int:
        """Floats of state for each parameter."""
        return self.memory.floats_per_parameter

    @property
    def floats_per_tensor(self) -> int:
        """Floats of state for each tensor, beside its counts: `State` holds them as ``statistics``."""
        return self.memory.heads + 3 if self.config.statistics == "delayed" else 0

    def __reduce__(self) -> tuple[type["UpdateRule"], tuple[RuleConfig]]:
        return UpdateRule, (self.config,)

    def init_meta(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Meta:
        """Meta-parameters of the rule that is Adam, on the CPU; the seed draws the head's hidden layers."""
        with _CPU:  # whatever the default device
            generator = torch.Generator().manual_seed(seed)
            head = self.head.init_meta(dtype, generator)
            if self.config.tempered:
                head[EXPONENT] = torch.zeros(1, dtype=dtype)
            return {**self.memory.init_meta(dtype, generator), **head}

    def check_meta(self, meta: Meta) -> None:
        """Refuse meta-parameters that are not this architecture's.

        Raises:
            ValueError: If a name is missing or unknown, a shape is wrong, or a value is not a finite float.
        """
        expected = self.init_meta()
        for name in sorted(expected.keys() ^ meta.keys()):
            raise ValueError(f"meta-parameter {name!r} is {'missing' if name in expected else 'unknown'}")
        for name, tensor in meta.items():
            if tensor.shape != expected[name].shape:
                raise ValueError(
                    f"meta-parameter {name!r} has shape {tuple(tensor.shape)}; "
                    f"expected {tuple(expected[name].shape)}"
                )
            if not tensor.is_floating_point():
                raise ValueError(f"meta-parameter {name!r} is {tensor.dtype}; expected floats")
            if not tensor.isfinite().all():
                value = tensor[~tensor.isfinite()][0].item()
                raise ValueError(f"meta-parameter {name!r} holds {value}; expected finite floats")

    def init_state(
        self, params: Sequence[Tensor], *, dtype: torch.dtype = torch.float32, pooled: bool = False
    ) -> State:
        """State before the first gradient.

        Args:
            params: ``n`` tensors with ``N`` elements in all.
            dtype: Of the memory.
            pooled: Count steps and skip non-finite gradients for all tensors together.

        Returns:
            ``memory`` ``[S, N]``, ``step`` and ``skipped`` ``[n]`` (``[1]`` when pooled), all zero; where
            statistics are delayed also ``statistics`` ``[K + 3, n]``: each tensor's log RMS of every average,
            the log of its gain and `Tokens.sizes`, zero.
        """
        layout = Layout.of(params, pooled=pooled)
        device = params[0].device
        counts = torch.zeros(layout.columns, dtype=torch.float32, device=device)
        memory = torch.zeros(self.floats_per_parameter, sum(layout.sizes), dtype=dtype, device=device)
        state = {"memory": memory, "step": counts, "skipped": counts.clone()}
        if self.floats_per_tensor:
            shape = (self.floats_per_tensor, len(params))
            exact = torch.promote_types(dtype, torch.float32)
            state["statistics"] = torch.zeros(shape, dtype=exact, device=device)
        return state

    def update(
        self,
        meta: Meta,
        state: State,
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        total_steps: float | Tensor | None = None,
        sharding: Sharding | None = None,
    ) -> tuple[list[Tensor], State]:
        """Advance the memory by one gradient and give the direction to move against.

        Pure, and safe under `torch.func.vmap` over a leading axis of every argument. A tensor whose gradient
        holds a non-finite number, or one whose square is, keeps its memory and gets a zero direction;
        ``skipped`` counts it.

        Args:
            meta: Meta-parameters, as from `init_meta`.
            state: As from `init_state`.
            grads: Gradients, one a tensor.
            params: Parameters, in the same order and shapes.
            total_steps: How many steps there are, a number, a tensor without axes or one for each column of
                ``step``, for a rule that is told so; another takes no notice.
            sharding: Of what all these tensors are this process's parts, where they are parts.

        Returns:
            Directions in Adam's units, one a tensor in its shape and the memory's dtype, to be multiplied by
            ``-lr``; and the next state.

        Raises:
            ValueError: If ``total_steps`` is missing.
        """
        pooled = state["step"].shape[-1] != len(params)
        layout = Layout.of(params, pooled=pooled, sharding=sharding)
        grad = layout.flatten(grads, state["memory"].dtype)
        live = torch.isfinite(layout.sum_of_columns(grad * grad)).to(grad.dtype)
        kinds = self._kinds(meta, params)
        if len(kinds) == 1:
            own = kinds[0][0]
            direction, after = self._update(
                own, state, grad, live, params, layout, total_steps, adam=own is not meta
            )
            return layout.split(direction), after
        directions: dict[int, Tensor] = {}
        parts: list[tuple[Members, State]] = []
        for own, members in kinds:
            some, chosen = layout.of_some(members), [params[index] for index in members]
            flat = some.flatten([grads[index] for index in members], grad.dtype)
            told, alive = of_columns(total_steps, layout, members), of_columns(live, layout, members)
            before = selected(state, layout, members)
            direction, found = self._update(
                own, before, flat, alive, chosen, some, told, adam=own is not meta
            )
            directions.update(zip(members, some.split(direction), strict=True))
            parts.append((members, found))
        return [directions[index] for index in range(len(params))], put_together(parts, layout)

    def of_vectors(self, meta: Meta) -> Meta:
        """The meta-parameters that tensors of at most one axis go by, on the device of these."""
        if self.config.vectors == "learned":
            return meta
        like = next(iter(meta.values()))
        key = (like.device, like.dtype)
        adam = self._adam.get(key)
        if adam is None:
            adam = {name: value.to(*key) for name, value in self._adam[_CPU, torch.float64].items()}
            if not torch.compiler.is_compiling() and may_be_kept():
                self._adam[key] = adam
        gain = meta.get(GAIN_OF_VECTORS)
        return adam if gain is None else adam | {GAIN_OF_VECTORS: gain}

    def gain_of_vectors(self, meta: Meta, shapes: Tensor) -> Tensor:
        """Log of the gain of tensors that go by Adam, which needs no step before, ``[n]``.

        Args:
            meta: Meta-parameters.
            shapes: As of `shape_features`.
        """
        if GAIN_OF_VECTORS not in meta:
            return torch.zeros_like(shapes[0])
        return self.head.gain_of_shape(meta, shapes).clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN)

    def _kinds(self, meta: Meta, params: Sequence[Tensor]) -> list[tuple[Meta, Members]]:
        """Meta-parameters, and the tensors that go by them."""
        if self.config.vectors == "learned":
            return [(meta, range(len(params)))]
        matrices = [index for index, param in enumerate(params) if param.ndim > 1]
        vectors = [index for index, param in enumerate(params) if param.ndim < 2]
        kinds = [(meta, matrices), (self.of_vectors(meta), vectors)]
        return [(own, members) for own, members in kinds if members]

    def _update(
        self,
        meta: Meta,
        state: State,
        grad: Tensor,
        live: Tensor,
        params: Sequence[Tensor],
        layout: Layout,
        total_steps: float | Tensor | None,
        *,
        adam: bool,
    ) -> tuple[Tensor, State]:
        """What `update` does to tensors that go by the same meta-parameters.

        Args:
            meta: Those.
            state: Of these tensors.
            grad: Their gradients, ``[N]``.
            live: 1 where they are finite, else 0, ``[columns]``.
            params: The tensors.
            layout: Theirs.
            total_steps: As of `update`.
            adam: Whether they are vectors that go by Adam.

        Returns:
            Directions, ``[N]``, and the next state.
        """
        memory, dtype = state["memory"], state["memory"].dtype
        grad = torch.where(layout.spread(live) > 0, grad, 0.0)
        step = state["step"] + live.to(state["step"].dtype)
        counted = step.clamp_min(1).to(dtype)

        memory = self.memory.advance(meta, memory, grad, counted, live, layout)
        readout = self.memory.read(meta, memory, counted, layout)
        progress, schedule = self._schedule(meta, counted, total_steps)
        known = state["statistics"].to(dtype) if "statistics" in state else None
        shapes = shape_features(layout, grad) if self.config.shapes else None
        tokens = tokenise(
            readout,
            grad,
            layout.flatten(params, dtype),
            layout,
            epsilon=self.config.epsilon,
            factored=self.config.factored,
            log_rms=None if known is None else known[:-3],
            sizes=None if known is None else known[-2:],
            progress=progress,
            shapes=shapes,
        )
        log_gain = None if known is None else known[-3]
        if known is not None and adam and shapes is not None:
            log_gain = torch.where(known[-2] > 0, known[-3], self.gain_of_vectors(meta, shapes))
        direction, gain = self.head.direct(meta, tokens, layout, log_gain=log_gain)
        if schedule is not None:
            direction = direction * layout.spread(schedule)
        direction = torch.where(layout.spread(live) > 0, direction, 0.0)
        skipped = state["skipped"] + (1 - live).to(state["skipped"].dtype)
        after = {"memory": memory, "step": step, "skipped": skipped}
        if known is not None:
            log_gain = gain.clamp_min(torch.finfo(dtype).tiny).log().clamp_max(MAX_LOG_GAIN)
            found = torch.cat([tokens.log_rms, log_gain[None], tokens.sizes])
            counts = (live > 0) & (gain > 0)
            after["statistics"] = torch.where(counts, found, known).to(state["statistics"].dtype)
        return direction, after

    def _schedule(
        self, meta: Meta, step: Tensor, total_steps: float | Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the head is told of the progress, ``[F, columns]``, and the gain it brings, ``[columns]``."""
        if not self.config.progress:
            return None, None
        if total_steps is None:
            raise ValueError("total_steps is None; expected the number of steps, which this rule goes by")
        told = progress_features(step, total_steps)
        return told, annealed(step, total_steps) * self.head.schedule(meta, told)

    def shaping(self, meta: Meta) -> Shaping:
        """How directions of matrices are made orthogonal, where they are."""
        return Shaping(meta.get(EXPONENT), self.config.spectral, self.config.iterations)

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """Steady-state weight of the gradient ``lags`` steps ago in each head's average, ``[K, L]``."""
        return self.memory.masks(meta, lags)
