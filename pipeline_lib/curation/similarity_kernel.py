# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The compiled loops of ``minhash``, ``candidates`` and ``clusters``.

A **row** is a sorted, unique slice of shingle hashes, given by its start and size. A **bucket** is a run of
equal keys in a sorted array of ``key << 32 | position``. In one module, because Numba's file cache of a
kernel notices changes in its own file only.
"""

import numba
import numpy as np

kernel = numba.njit(cache=True, nogil=True)

_STEP = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@kernel
def band_keys(hashes, offsets, factors, terms, rows, out):
    """Write ``out[band, text]``: a 32-bit hash of the band's ``rows`` minima of ``factor * hash + term``."""
    lowest = np.empty(len(factors), np.uint32)
    for text in range(len(offsets) - 1):
        lowest[:] = np.uint32(0xFFFFFFFF)
        for at in range(offsets[text], offsets[text + 1]):
            _lower(lowest, np.uint32(hashes[at] >> _SHIFT), factors, terms)
        for band in range(out.shape[0]):
            state = _STEP
            for row in range(band * rows, (band + 1) * rows):
                state = (state ^ np.uint64(lowest[row])) * _STEP
                state ^= state >> _SHIFT
            out[band, text] = np.uint32(state & _LOW)


@kernel
def _lower(lowest, value, factors, terms):
    for at in range(len(factors)):
        image = np.uint32(np.uint32(value * factors[at]) + terms[at])
        lowest[at] = min(lowest[at], image)


@kernel
def jaccards(left, right, hashes, starts, sizes, threshold, out):
    """Write the Jaccard similarity of each pair of rows, or 0 where it is under the threshold."""
    for pair in range(len(left)):
        i, j = left[pair], right[pair]
        first = hashes[starts[i] : starts[i] + sizes[i]]
        second = hashes[starts[j] : starts[j] + sizes[j]]
        out[pair] = _jaccard(first, second, threshold)


@kernel
def _jaccard(first, second, threshold):
    """Merge two rows, giving up once the shingles they can still share are too few."""
    total = len(first) + len(second)
    spare = total - 2 * np.int64(np.ceil(threshold / (1.0 + threshold) * total - 1e-9))
    i, j, shared, missed = 0, 0, 0, 0
    while i < len(first) and j < len(second):
        if first[i] == second[j]:
            shared, i, j = shared + 1, i + 1, j + 1
            continue
        missed += 1
        if missed > spare:
            return 0.0
        if first[i] < second[j]:
            i += 1
        else:
            j += 1
    similarity = shared / (total - shared)
    return similarity if similarity >= threshold else 0.0


@kernel
def bucket_pairs(packed, at, groups, most, left, right):
    """Write all pairs of different groups within buckets of 2 to ``most`` texts, from bucket ``at`` on.

    Stops before the bucket that might not fit. Returns the number of pairs and where to go on.
    """
    count = 0
    while at < len(packed):
        end = _bucket_end(packed, at)
        if 2 <= end - at <= most:
            if count + (end - at) * (end - at - 1) // 2 > len(left):
                break
            for x in range(at, end):
                count = _pairs_with(packed, x, x + 1, end, groups, left, right, count)
        at = end
    return count, at


@kernel
def near_pairs(packed, at, groups, most, near, left, right):
    """As ``bucket_pairs`` for buckets of more than ``most`` texts, each only with its ``near`` successors.

    May stop within a bucket; of that, a rest of ``most`` texts or fewer is then left out.
    """
    count, end = 0, at
    while at < len(packed):
        if at >= end:
            end = _bucket_end(packed, at)
            if end - at <= most:
                at = end
                continue
        if count + near > len(left):
            break
        count = _pairs_with(packed, at, at + 1, min(end, at + 1 + near), groups, left, right, count)
        at += 1
    return count, at


@kernel
def _pairs_with(packed, x, first, last, groups, left, right, count):
    i = np.int64(packed[x] & _LOW)
    for y in range(first, last):
        j = np.int64(packed[y] & _LOW)
        if groups[i] != groups[j]:
            left[count] = i
            right[count] = j
            count += 1
    return count


@kernel
def _bucket_end(packed, at):
    end = at + 1
    while end < len(packed) and packed[end] >> _SHIFT == packed[at] >> _SHIFT:
        end += 1
    return end


@kernel
def large_buckets(packed, most, bounds):
    """Write begin and end of every bucket of more than ``most`` texts; return how many there are."""
    count, at = 0, 0
    while at < len(packed):
        end = _bucket_end(packed, at)
        if end - at > most:
            bounds[count, 0], bounds[count, 1] = at, end
            count += 1
        at = end
    return count


@kernel
def count_shingles(hashes, starts, sizes, counts):
    """Count the rows' shingles; those that share a counter (a power of two of them) are counted together."""
    mask = np.uint64(len(counts) - 1)
    for row in range(len(starts)):
        for at in range(starts[row], starts[row] + sizes[row]):
            counts[hashes[at] & mask] += np.uint32(1)


@kernel
def prefix_shingles(hashes, starts, sizes, prefixes, counts, part, parts, out):
    """Write ``shingle << 32 | row`` for each row's first shingles by count, then hash; return how many.

    A shingle is written only where its hash, of 32 bits, falls into the part. Shingles that were counted once
    have no partner and are left out.
    """
    mask = np.uint64(len(counts) - 1)
    used = 0
    for row in range(len(starts)):
        ranked = np.empty(sizes[row], np.uint64)
        for at in range(sizes[row]):
            value = hashes[starts[row] + at]
            ranked[at] = np.uint64(counts[value & mask]) << _SHIFT | np.uint64(value)
        ranked.sort()
        for at in range(prefixes[row]):
            name = ranked[at] & _LOW
            if ranked[at] >> _SHIFT > 1 and name % np.uint64(parts) == np.uint64(part):
                out[used] = name << _SHIFT | np.uint64(row)
                used += 1
    return used


@kernel
def link(roots, left, right, tree):
    """Join the components of every pair, smaller root first; return how many pairs joined two.

    ``tree[:n]`` are the places of those pairs. On return every text points straight at its root.
    """
    joined = 0
    for pair in range(len(left)):
        i, j = _root(roots, left[pair]), _root(roots, right[pair])
        if i != j:
            roots[max(i, j)] = min(i, j)
            tree[joined] = pair
            joined += 1
    if joined:
        for text in range(len(roots)):
            roots[text] = roots[roots[text]]
    return joined


@kernel
def _root(roots, text):
    while roots[text] != text:
        roots[text] = roots[roots[text]]
        text = roots[text]
    return text


@kernel
def towards_roots(roots, starts, neighbours, places, partners, via):
    """Walk every tree from its root: write each text's neighbour on the way and the edge it goes by.

    ``neighbours[starts[i]:starts[i + 1]]`` are text i's neighbours in the forest, ``places`` their edges.
    """
    queue = np.empty(len(roots), np.int64)
    filled = 0
    for text in range(len(roots)):
        if roots[text] == text:
            queue[filled] = text
            filled += 1
    for turn in range(len(queue)):
        text = queue[turn]
        for at in range(starts[text], starts[text + 1]):
            other = neighbours[at]
            if other != partners[text]:
                partners[other], via[other] = text, places[at]
                queue[filled] = other
                filled += 1
