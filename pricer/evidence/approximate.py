"""The nearest of very many products: candidates found by faiss, compared by the words they share.

Words are reduced to few numbers by a truncated singular value decomposition (latent semantic
analysis, Deerwester et al. 1990, https://doi.org/bb5w4d); faiss groups products by these and looks
through the groups nearest to a query (Douze et al. 2024, https://arxiv.org/abs/2401.08281).
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix

from pricer.errors import PricerError, first_line
from pricer.evidence.neighbors import ExactIndex, Nearest, best_of, no_neighbors

EXACT_UP_TO = 50_000  # products: comparing so many with each other takes two minutes on one core

DIMENSIONS = 256  # that words are reduced to
SAMPLE = 100_000  # products that reduction and groups are fitted on
LEAST = 3  # of these that have a word, for the reduction to know it
GROUP = 40  # products of the sample by group: fewer leave centres to chance
PROBES = 32  # groups looked through for a query
CANDIDATES = 400  # products whose words are compared with a query's
PART = 8192  # queries whose numbers are in memory at once
SEED = 0
MEASURED = 200  # products that recall is measured on


@dataclass(frozen=True)
class ApproximateIndex:
    """Products by few numbers, and by their words; most of the nearest are found.

    Attributes:
        vectors: (m, features) the words of m products, rows of unit length.
        columns: (k,) features that the reduction knows.
        components: (k, DIMENSIONS) what each adds to a product's numbers.
        groups: the faiss index of these numbers.
    """

    vectors: csr_matrix
    columns: NDArray[np.int32]
    components: NDArray[np.float32]
    groups: Any

    def nearest(
        self, queries: csr_matrix, count: int, *, without: NDArray[np.bool_] | None = None
    ) -> Nearest:
        """Return about the nearest `count` products for each query, see `ExactIndex.nearest`."""
        nearest = no_neighbors(queries.shape[0], count)
        words = np.zeros(queries.shape[1], dtype=np.float32)  # of one query
        for start in range(0, queries.shape[0], PART):
            part = queries[start : start + PART]
            for row, candidates in enumerate(self._candidates(part, without)):
                used = slice(*part.indptr[row : row + 2])
                words[part.indices[used]] = part.data[used]
                best = self._best_of(candidates, words, count)
                words[part.indices[used]] = 0
                nearest.rows[start + row, : best.rows.shape[1]] = best.rows
                nearest.similarities[start + row, : best.rows.shape[1]] = best.similarities
        return nearest

    def _candidates(
        self, queries: csr_matrix, without: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Return products that have like numbers, (n, CANDIDATES); -1 where there are no more."""
        import faiss

        # its stubs know neither the forms for arrays nor named parameters
        chosen = {}
        if without is not None:
            chosen["sel"] = faiss.IDSelectorBitmap(  # type: ignore[call-arg]
                np.packbits(~without, bitorder="little")  # type: ignore[arg-type]
            )
        options = faiss.SearchParametersIVF(nprobe=PROBES, **chosen)  # type: ignore[call-arg]
        numbers = reduce_words(queries, self.columns, self.components)
        return np.asarray(self.groups.search(numbers, CANDIDATES, params=options)[1])

    def _best_of(
        self, candidates: NDArray[np.int64], words: NDArray[np.float32], count: int
    ) -> Nearest:
        """Return those of the candidates that share the most with a query's words, (1, count)."""
        candidates = np.sort(candidates[candidates >= 0])
        if not len(candidates):
            return no_neighbors(1, count)
        best = best_of((self.vectors[candidates] @ words)[None], count)
        return Nearest(np.where(best.rows < 0, -1, candidates[best.rows]), best.similarities)


Index = ExactIndex | ApproximateIndex


def reduce_words(
    vectors: csr_matrix, columns: NDArray[np.int32], components: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the numbers that stand for words, (n, DIMENSIONS) rows of unit length."""
    from sklearn.preprocessing import normalize

    return np.asarray(normalize(vectors[:, columns] @ components, copy=False), dtype=np.float32)


def make_index(vectors: csr_matrix) -> Index:
    """Return what finds the nearest of m products, (m, features): exactly where that is quick."""
    return ExactIndex(vectors) if vectors.shape[0] <= EXACT_UP_TO else fit_approximate(vectors)


def fit_approximate(vectors: csr_matrix) -> ApproximateIndex:
    """Return an index of m products, (m, features) rows of unit length.

    Always the same bytes, for one number of threads: sums of several differ in the last digits.
    """
    import faiss

    products = vectors.shape[0]
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.choice(products, min(SAMPLE, products), replace=False))
    columns, components = _fit_reduction(vectors[rows])
    lists = max(min(int(4 * products**0.5), len(rows) // GROUP), 1)
    groups = faiss.index_factory(
        components.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT
    )
    groups.train(reduce_words(vectors[rows], columns, components))
    for start in range(0, products, PART):
        groups.add(reduce_words(vectors[start : start + PART], columns, components))
    return ApproximateIndex(vectors, columns, components, groups)


def _fit_reduction(sample: csr_matrix) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the columns that a reduction knows and its components, see `ApproximateIndex`."""
    from sklearn.decomposition import TruncatedSVD

    uses = np.bincount(sample.indices, minlength=sample.shape[1])
    columns = np.flatnonzero(uses >= LEAST).astype(np.int32)
    known = sample[:, columns]
    svd = TruncatedSVD(min(DIMENSIONS, *known.shape), n_iter=3, random_state=SEED).fit(known)
    return columns, np.ascontiguousarray(svd.components_.T, dtype=np.float32)


def check_installed(products: int) -> None:
    """Raise PricerError if so many training products need what is not installed."""
    if products > EXACT_UP_TO and importlib.util.find_spec("faiss") is None:
        raise PricerError(
            f"evidence from {products:,} training products, more than {EXACT_UP_TO:,}, needs "
            "faiss, not installed: run `pip install 'pricer[approximate]'`"
        )


def describe(index: Index, vectors: csr_matrix, count: int) -> dict[str, Any]:
    """Return the kind of an index and, if approximate, the share of the nearest that it finds.

    Args:
        index: of the products.
        vectors: (m, features) their words.
        count: neighbours by product; of some products, among all others.
    """
    if isinstance(index, ExactIndex):
        return {"kind": "exact"}
    products = vectors.shape[0]
    sample = np.zeros(products, dtype=bool)
    rng = np.random.default_rng(SEED)
    sample[rng.choice(products, min(MEASURED, products // 2), replace=False)] = True
    exact, approximate = (
        one.nearest(vectors[sample], count, without=sample).rows
        for one in (ExactIndex(vectors), index)
    )
    shared = [
        np.isin(wanted[wanted >= 0], found)
        for wanted, found in zip(exact, approximate, strict=True)
    ]
    return {
        "kind": "approximate",
        f"recall_at_{count}": float(np.concatenate(shared).mean()),
        "dimensions": index.components.shape[1],
        "groups": int(index.groups.nlist),
        "probes": PROBES,
        "candidates": CANDIDATES,
    }


def write_index(folder: Path, index: ApproximateIndex) -> None:
    """Write an index, but for the words of its products, as two files."""
    import faiss

    save_file(
        {"columns": index.columns, "components": index.components},
        folder / "reduction.safetensors",
    )
    faiss.write_index(index.groups, str(folder / "groups.faiss"))


def read_index(folder: Path, vectors: csr_matrix) -> Index:
    """Read an index of these products, (m, features); a folder without its files has an exact one.

    Raises:
        PricerError: a file is missing, damaged, or belongs to another; faiss is not installed.
    """
    file, reduction = folder / "groups.faiss", folder / "reduction.safetensors"
    if not (file.exists() or reduction.exists()):
        return ExactIndex(vectors)
    check_installed(vectors.shape[0])
    import faiss

    try:
        groups = faiss.read_index(str(file))
        with safe_open(reduction, "numpy") as stored:
            columns, components = (stored.get_tensor(name) for name in ("columns", "components"))
        if groups.ntotal != vectors.shape[0] or components.shape != (len(columns), groups.d):
            raise ValueError(f"{groups.ntotal} products, components {components.shape}")
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise PricerError(
            f"{file} and {reduction.name} are damaged or not of these products "
            f"({first_line(error)}): `dvc checkout` or `dvc repro evidence` brings them back"
        ) from None
    return ApproximateIndex(vectors, columns, components, groups)
