"""Keys and values of a text, in memory that is allocated once and grows in steps."""

from __future__ import annotations

import torch
from torch import Tensor

from audiolm_compress.runtime.attention import NOWHERE

STEP = 64  # columns


class Cache:
    """Keys and values of all layers of a batch.

    Attributes:
        layers: one tensor a layer, [2, batch, key heads, capacity, head_dim] in the LLM's dtype: keys and
            values.
        batch: rows.
        length: columns in use.
        capacity: columns that there is memory for.
        positions: int64 [batch, capacity]: the position of each column's token, -1 where there is none; None
            as long as every row's column is its position.
        next_positions: int64 [batch], of the next token; None as above.
        padded: whether some columns hold no token.
        ahead: how far the next token's position lies beyond its column, at most.
    """

    def __init__(self, layers: int, batch: int, capacity: int, device: torch.device) -> None:
        """Make an empty cache; a layer's memory is taken when its first keys come, whose shape it has."""
        self.layers: list[Tensor | None] = [None] * layers
        self.batch, self.length, self.capacity = batch, 0, capacity
        self.device = device
        self.positions: Tensor | None = None
        self.next_positions: Tensor | None = None
        self.padded = False
        self.ahead = 0

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, unused columns included."""
        return sum(layer.nbytes for layer in self.layers if layer is not None)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        return self.nbytes // (self.batch * self.capacity)

    def held(self) -> list[Tensor]:
        """``layers`` of a cache that has been written."""
        written = [layer for layer in self.layers if layer is not None]
        assert len(written) == len(self.layers), "nothing has been read yet"
        return written

    def write(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put a layer's new columns behind those in use, which `advance` then counts.

        Args:
            index: of the layer.
            keys: [batch, new columns, key heads, head_dim].
            values: as ``keys``.

        Returns:
            Keys and values of all columns in use and the new ones: [batch, key heads, columns, head_dim].
        """
        held = self.layers[index]
        if held is None:
            shape = (2, self.batch, keys.shape[2], self.capacity, keys.shape[3])
            # Zeros, as a masked column still takes part in products: 0 times whatever lies there may be NaN.
            held = self.layers[index] = keys.new_zeros(shape)
        end = self.length + keys.shape[1]
        held[0, :, :, self.length : end] = keys.transpose(1, 2)
        held[1, :, :, self.length : end] = values.transpose(1, 2)
        used = held[:, :, :, :end]
        return used[0], used[1]

    def reserve(self, columns: int, step: int = STEP) -> None:
        """Have memory for ``columns`` more; what is not there is taken in multiples of ``step``."""
        needed = self.length + columns
        if needed <= self.capacity:
            return
        self.capacity = -(-needed // step) * step
        for index, held in enumerate(self.layers):
            if held is not None:
                grown = held.new_zeros((*held.shape[:3], self.capacity, held.shape[4]))
                grown[:, :, :, : self.length] = held[:, :, :, : self.length]
                self.layers[index] = grown
        if self.positions is not None:
            self.positions = torch.nn.functional.pad(
                self.positions, (0, self.capacity - self.positions.shape[1]), value=NOWHERE
            )

    def positions_of(self, columns: int) -> Tensor:
        """The positions of the first ``columns``: int64 [batch, or 1 if all are alike, columns]."""
        if self.positions is None:
            return torch.arange(columns, device=self.device)[None]
        return self.positions[:, :columns]

    def place(self, positions: Tensor) -> None:
        """Note the positions [batch, new columns] of columns that are about to be written."""
        if self.positions is None:
            self.positions = torch.full(
                (self.batch, self.capacity), NOWHERE, dtype=torch.int64, device=self.device
            )
            self.positions[:, : self.length] = torch.arange(self.length, device=self.device)
        end = self.length + positions.shape[1]
        self.positions[:, self.length : end] = positions
        self.next_positions = positions[:, -1] + 1

    def place_prompt(self, positions: Tensor) -> None:
        """``place`` of a prompt's columns, which may hold padding, and whose positions may have gaps."""
        self.place(positions)
        self.padded = self.padded or bool((positions == NOWHERE).any())
        self.ahead = max(0, int(positions.max()) + 1 - self.length - positions.shape[1])

    def advance(self, columns: int) -> None:
        """``columns`` new ones have been written in every layer."""
        self.length += columns

    def expand(self, times: int) -> None:
        """Repeat every row ``times`` times, for beams that share a prompt."""
        if times == 1:
            return
        self.batch *= times
        for index, held in enumerate(self.layers):
            if held is not None:
                self.layers[index] = held.repeat_interleave(times, 1)
        if self.positions is not None and self.next_positions is not None:
            self.positions = self.positions.repeat_interleave(times, 0)
            self.next_positions = self.next_positions.repeat_interleave(times, 0)

    def reorder(self, rows: Tensor, first: int) -> None:
        """Row i goes on where row ``rows[i]`` stands; columns before ``first`` are the same in both."""
        for held in self.layers:
            if held is not None:
                changed = held[:, :, :, first : self.length]
                changed.copy_(changed.index_select(1, rows))
