"""Text to vectors without a network: bundled static word vectors, hashed n-grams."""

import dataclasses
import importlib.util
import pathlib
import re
import zlib

import numpy as np
import safetensors
import tokenizers
from scipy import sparse

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError

WORDLLAMA_DIMENSIONS = (64, 128, 256)  # the first columns are a smaller model
# The vectors that ship with wordllama 0.4.0: the package is a re-upload by one person,
# so what it holds is checked rather than trusted.
WORDLLAMA_SHA256 = "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
_WORDLLAMA_TOKENIZER_SHA256 = (
    "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68")
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"

_SPACE = 1 << 20  # distinct n-gram features; collisions only blur the weights
_WORD = re.compile(r"\w+")
_TEXTS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class WordllamaFiles:
    """Where the vectors and the tokenizer that belongs to them lie."""

    weights: pathlib.Path
    tokenizer: pathlib.Path


def find_wordllama() -> WordllamaFiles:
    """Finds and checks the files in the installed package, without importing it.

    (Its import sets up logging and its loader may download; the files need neither.)

    Raises:
      InputError: the package or a file is missing, or a file is not the known one.
    """
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise InputError("the text encoder needs the package wordllama, which is not "
                         "installed; pip install wordllama, or choose "
                         "source=\"hashed\"")
    root = pathlib.Path(spec.origin).parent
    files = WordllamaFiles(root / _WEIGHTS, root / _TOKENIZER)
    for path, digest in ((files.weights, WORDLLAMA_SHA256),
                         (files.tokenizer, _WORDLLAMA_TOKENIZER_SHA256)):
        if not path.is_file():
            raise InputError(f"{path} is missing; install wordllama 0.4, which ships "
                             "it, or choose source=\"hashed\"")
        if artifacts.file_digest(path) != digest:
            raise InputError(f"{path} is not the file that wordllama 0.4 ships (its "
                             "SHA-256 differs); install that release, or choose "
                             "source=\"hashed\"")
    return files


def wordllama(texts: list[str], *, dimension: int = 256) -> np.ndarray:
    """Embeds each text as the mean of the vectors of its tokens.

    Args:
      texts: N texts; one without a token gets a zero row.
      dimension: D, one of 64, 128, 256: the leading columns.

    Returns:
      `[N, D]` float32, not normalised.

    Source: wordllama, https://github.com/dleemiller/WordLlama (MIT): static vectors
    distilled from the input embeddings of language models, mean pooling.
    """
    if dimension not in WORDLLAMA_DIMENSIONS:
        raise InputError(f"wordllama has no vectors of dimension {dimension}; choose "
                         f"one of {WORDLLAMA_DIMENSIONS}")
    files = find_wordllama()
    tokenizer = tokenizers.Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with safetensors.safe_open(files.weights, framework="np") as opened:
        vectors = opened.get_tensor("embedding.weight").astype(np.float32)
    result = np.zeros((len(texts), dimension), np.float32)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[start : start + _TEXTS_AT_ONCE]
        encoded = tokenizer.encode_batch(part, add_special_tokens=False)
        counts = _counts([np.asarray(one.ids, np.int64) for one in encoded],
                         len(vectors))
        length = np.maximum(np.asarray(counts.sum(axis=1)), 1)
        result[start : start + len(part)] = (
            counts @ vectors[:, :dimension]) / length[:, None]
    return result


def hashed(texts: list[str], *, dimension: int = 384) -> np.ndarray:
    """Embeds each text as signed hashes of its words' character 3- to 5-grams.

    Row n is sum_g tf(n, g) idf(g) s(g) e(h(g)), with tf = 1 + log count, idf =
    log((1 + N) / (1 + texts with g)) + 1, h a hash to a column and s one to a sign.
    Needs no model; similar texts are those that share rare letter groups.

    Args:
      texts: N texts; one without a word gets a zero row. The weights depend on all.
      dimension: D.

    Returns:
      `[N, D]` float32, not normalised.

    Source: feature hashing, Weinberger et al. 2009, https://arxiv.org/abs/0902.2206,
    eq. 3; word n-grams with boundary marks, Bojanowski et al. 2017,
    https://arxiv.org/abs/1607.04606, section 3.2; lengths and weights are ours.
    """
    if dimension < 1:
        raise InputError(f"dimension is {dimension}, expected at least 1")
    known: dict[str, np.ndarray] = {}
    rows = []
    for text in texts:
        words = _WORD.findall(text.lower())
        for word in words:
            if word not in known:
                known[word] = _hash_grams(word)
        rows.append(np.concatenate([known[word] for word in words]) if words
                    else np.zeros(0, np.int64))
    counts = _counts(rows, _SPACE)
    frequency = np.bincount(counts.indices, minlength=_SPACE)
    weight = np.log((1 + len(texts)) / (1 + frequency)) + 1
    counts.data = (1 + np.log(counts.data)) * weight[counts.indices].astype(np.float32)
    used = np.flatnonzero(frequency)
    mixed = _mix(used)
    sign = np.where(mixed >> 32 & 1, 1, -1).astype(np.float32)
    columns = ((mixed & 0xFFFFFFFF) % dimension).astype(np.int64)
    projection = sparse.csr_array((sign, (used, columns)), (_SPACE, dimension))
    return (counts @ projection).toarray().astype(np.float32)


def _counts(rows: list[np.ndarray], width: int) -> sparse.csr_array:
    """Returns how often each id stands in each row, `[N, width]` float32."""
    ends = np.cumsum([0, *(len(row) for row in rows)])
    ids = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    counts = sparse.csr_array((np.ones(len(ids), np.float32), ids, ends),
                              shape=(len(rows), width))
    counts.sum_duplicates()
    return counts


def _hash_grams(word: str) -> np.ndarray:
    marked = f"<{word}>"
    grams = [marked[start : start + size] for size in (3, 4, 5)
             for start in range(len(marked) - size + 1)] or [marked]
    return np.array([zlib.crc32(gram.encode()) % _SPACE for gram in grams], np.int64)


def _mix(ids: np.ndarray) -> np.ndarray:
    """Scrambles ids to 64 bits, so that column and sign do not follow from the id.

    Source: the finaliser of SplitMix64, Steele et al. 2014 (public domain constants).
    """
    x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
