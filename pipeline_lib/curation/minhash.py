"""MinHash signatures, folded into one 32-bit key per band.

MinHash (Broder 1997): under a random permutation two sets have the same minimum with a probability equal to
their Jaccard similarity J. With b bands of r minima, two texts share a band with probability 1 - (1 - J^r)^b
(Indyk and Motwani 1998): for 32 bands of 4 that is 0.9998 at J = 0.7 and 0.99999995 at J = 0.8. Candidates
are verified afterwards, so bands are set for recall. 32 bits do for a key: a chance collision costs one
verification, and there is about one per band and 100,000 texts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.similarity_kernel import band_keys

BANDS = 32
ROWS = 4


@dataclass(frozen=True)
class Permutations:
    """``bands * rows`` affine maps of 32-bit integers, ``factor * x + term`` with odd factors."""

    factors: npt.NDArray[np.uint32]
    terms: npt.NDArray[np.uint32]
    bands: int
    rows: int


def permutations(bands: int = BANDS, rows: int = ROWS, seed: int = 0) -> Permutations:
    """Return the permutations of a seed, by SplitMix64 (Steele et al. 2014): the same on every machine."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, bands * rows + 1, dtype=np.uint64)
        state = np.uint64(seed) + steps * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    factors = (state >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return Permutations(factors, state.astype(np.uint32), bands, rows)


def signatures(
    hashes: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], maps: Permutations
) -> npt.NDArray[np.uint32]:
    """Return the band keys (bands by n) of n shingle sets."""
    keys = np.empty((maps.bands, len(offsets) - 1), np.uint32)
    band_keys(hashes, offsets, maps.factors, maps.terms, maps.rows, keys)
    return keys
