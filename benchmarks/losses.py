"""What the losses cost: against flat hand-written expressions, and memory over V.

    python benchmarks/losses.py --quick --json      # about 50 s on two cores

1. Value and gradient of every objective at B = 512, G = 16, T = 3 (vectors: 512 × 64;
   logits: 512 × 1024), over the same formula written as one flat expression
   (`losses_by_hand.py`): `value_and_grad_ratio`, ours ÷ by hand, wanted <= 1.2.
2. `next_code_loss` and `chunked_next_code_loss` at V = 8,192 and 65,536 over plain
   softmax cross-entropy, from hidden states `[targets, 128]` and a table `[V, 128]` to
   both gradients: time, and temporary bytes by the compiled program's own analysis.
   `vocab_loss.temp_bytes_share` and `.time_ratio` are lean ÷ plain at 65,536; the
   share is wanted <= 0.25.

All times are CPU seconds of the process on one pinned core, so that other work on the
machine does not change them; the sides of a ratio run alternately, and the ratio is the
median over rounds of their quotient. `--peer` adds PyTorch's cross-entropy.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import losses_by_hand as by_hand
import numpy as np

from oxyrec_jax import huge_pages, losses

B, G, T, WIDTH, CODES = 512, 16, 3, 64, 1024
LIMIT, SHARE = 1.2, 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="fewer rounds and targets", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="also PyTorch's cross-entropy", **flag)
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    jax.config.update("jax_platforms", "cpu")
    print(f"device: core {core} of {os.cpu_count()} ({platform.machine()}); Python "
          f"{platform.python_version()}, JAX {jax.__version__}, NumPy {np.__version__}")
    print(f"shapes: B {B}, G {G}, T {T}; warm-up: compile and 3 calls")
    ratios = _all_ratios(rounds=30 if options.quick else 200)
    targets = 256 if options.quick else 1024
    rounds = 3 if options.quick else 9
    vocab = {codes: _vocabulary(codes, targets, rounds, options.peer)
             for codes in (8_192, 65_536)}
    if options.json:
        large = vocab[65_536]
        print(json.dumps({
            "value_and_grad_ratio": {n: row["ratio"] for n, row in ratios.items()},
            "vocab_loss": {"temp_bytes_share": large["lean_temp_share"],
                           "time_ratio": large["lean_time_ratio"], "by_codes": vocab},
            "times": ratios,
        }))


def _all_ratios(rounds: int) -> dict[str, dict[str, float]]:
    d, inputs = _example()
    results = {}
    for name, (ours, hand, argument) in _objectives(d).items():
        pair = [jax.jit(jax.value_and_grad(f)) for f in (ours, hand)]
        given = inputs[argument]
        values = [np.asarray(f(given, d)[0]) for f in pair]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-3, err_msg=name)
        mine, theirs = _alternate(*(lambda f=f: f(given, d) for f in pair),
                                  rounds=rounds)
        quotients = [a / b for a, b in zip(mine, theirs)]
        low, high = np.percentile(quotients, [25, 75])
        row = {"ratio": round(statistics.median(quotients), 3),
               "ours_us": round(statistics.median(mine) * 1e6, 1),
               "by_hand_us": round(statistics.median(theirs) * 1e6, 1),
               "spread": round(float(high - low), 3)}
        results[name] = row
        print(f"{name:>18}: {row['ours_us']:>8.1f} us, by hand "
              f"{row['by_hand_us']:>8.1f} us, ratio {row['ratio']:.2f} "
              f"(quartiles apart {row['spread']:.2f})"
              f"{'' if row['ratio'] <= LIMIT else '  ABOVE ' + str(LIMIT)}")
    return results


def _objectives(d: dict[str, jax.Array]):
    """By name: ours, by hand, and which input both take."""
    def policy(loss, **options):
        return lambda lp, d: loss(lp, d["old"], d["advantages"], d["mask"],
                                  **options).mean()

    ours = {
        "grpo_loss": policy(losses.grpo_loss),
        "dr_grpo_loss": policy(losses.dr_grpo_loss, max_length=3),
        "dapo_loss": policy(losses.dapo_loss),
        "gspo_loss": policy(losses.gspo_loss, clip_low=0.2, clip_high=0.2),
        "sapo_loss": policy(losses.sapo_loss),
        "cispo_loss": policy(losses.cispo_loss, cap=2.0),
        "rloo_loss": policy(losses.rloo_loss),
        "ecpo_loss": policy(losses.ecpo_loss, clip=0.2),
        "gbpo_loss": policy(losses.gbpo_loss),
        "reinforce_pp_loss": lambda lp, d: losses.reinforce_pp_loss(
            lp, d["old"], d["per_code"], d["mask"]).mean(),
        "sa_gcpo_loss": lambda lp, d: losses.sa_gcpo_loss(
            lp, d["old"], d["rewards"], d["target_rewards"], d["mask"], tau_pos=1.0,
            tau_neg=1.05).mean(),
        "a2po_loss": lambda lp, d: losses.a2po_loss(
            lp, d["old"], d["rewards"], d["semantic"], d["mask"]).mean(),
        "kl_penalty": lambda lp, d: losses.kl_penalty(lp, d["ref"], d["mask"]).mean(),
        "dpo_loss": lambda lp, d: losses.dpo_loss(
            *lp[:, :2, 0].T, *d["ref"][:, :2, 0].T, beta=0.1).mean(),
        "softmax_dpo_loss": lambda lp, d: losses.softmax_dpo_loss(
            lp[:, 0, 0], lp[:, 1:, 0], d["ref"][:, 0, 0], d["ref"][:, 1:, 0],
            beta=0.1).mean(),
        "simpo_loss": lambda lp, d: losses.simpo_loss(
            *jnp.mean(lp[:, :2], -1).T, beta=2.0, margin=1.0).mean(),
    }
    table = {name: (loss, getattr(by_hand, name.removesuffix("_loss")), "log_probs")
             for name, loss in ours.items()}
    return table | {
        "q2i_loss": (lambda x, d: losses.q2i_loss(
            x, d["items"], variance_weight=0.01, decorrelation_weight=0.01).mean(),
            by_hand.q2i, "vectors"),
        "info_nce_loss": (lambda x, d: losses.info_nce_loss(
            x, d["items"], temperature=0.07).mean(), by_hand.info_nce, "vectors"),
        "next_code_loss": (lambda x, d: losses.next_code_loss(
            x, d["targets"], d["supervised"]).mean(), by_hand.next_code, "logits"),
    }


def _example():
    """The data of all objectives, and the inputs that receive their gradient."""
    rng = np.random.default_rng(0)
    old = -rng.uniform(0.1, 4, (B, G, T))
    rewards = rng.normal(size=(B, G))
    vectors, items = rng.normal(size=(2, B, WIDTH)) / np.sqrt(WIDTH)
    d = {"old": old, "ref": old + 0.1 * rng.normal(size=old.shape),
         "advantages": rng.normal(size=(B, G)), "per_code": rng.normal(size=old.shape),
         "rewards": rewards, "semantic": rng.normal(size=(B, G)),
         "target_rewards": rewards.mean(1), "items": items}
    d = {name: jnp.asarray(array, jnp.float32) for name, array in d.items()}
    d |= {"mask": jnp.asarray(np.arange(T) < rng.integers(1, T + 1, (B, G, 1))),
          "targets": jnp.asarray(rng.integers(0, CODES, B)),
          "supervised": jnp.asarray(rng.random(B) < 0.9)}
    inputs = {"log_probs": np.minimum(old + 0.2 * rng.normal(size=old.shape), -0.01),
              "vectors": vectors, "logits": rng.normal(size=(B, CODES))}
    return d, {k: jnp.asarray(v, jnp.float32) for k, v in inputs.items()}


def _vocabulary(codes: int, targets: int, rounds: int, peer: bool) -> dict[str, float]:
    """Time and temporaries of three forms, gradients of states and table included."""
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.normal(size=(targets, 128)) / 11, jnp.float32)
    table = jnp.asarray(rng.normal(size=(codes, 128)), jnp.float32)
    chosen = jnp.asarray(rng.integers(0, codes, targets))
    mask = jnp.ones(targets, bool)
    forms = {
        "plain": lambda h, t: by_hand.next_code(
            h @ t.T, {"targets": chosen, "supervised": mask}),
        "ours": lambda h, t: losses.next_code_loss(h @ t.T, chosen, mask).mean(),
        "lean": lambda h, t: losses.chunked_next_code_loss(h, t, chosen, mask).mean(),
    }
    compiled = {name: jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(
        hidden, table).compile() for name, f in forms.items()}
    calls = [lambda f=f: f(hidden, table) for f in compiled.values()]
    if peer:
        calls.append(_torch(hidden, table, chosen))
    times = dict(zip([*compiled, "torch"], _alternate(*calls, rounds=rounds)))
    row = {"targets": targets}
    for name, program in compiled.items():
        row[f"{name}_temp_bytes"] = program.memory_analysis().temp_size_in_bytes
        row[f"{name}_ms"] = round(statistics.median(times[name]) * 1e3, 2)
    if peer:
        row["torch_ms"] = round(statistics.median(times["torch"]) * 1e3, 2)
    for name in ("ours", "lean"):
        quotients = [a / b for a, b in zip(times[name], times["plain"])]
        row[f"{name}_time_ratio"] = round(statistics.median(quotients), 3)
        row[f"{name}_temp_share"] = round(
            row[f"{name}_temp_bytes"] / row["plain_temp_bytes"], 4)
    print(f"V {codes}, {targets} targets, width 128:")
    for name in times:
        size = row.get(f"{name}_temp_bytes")
        print(f"  {name:>6}: {row[f'{name}_ms']:>9.2f} ms"
              + (f", {size / 2**20:>7.1f} MiB of temporaries" if size else ""))
    print(f"  lean / plain: time {row['lean_time_ratio']:.2f}, temporaries "
          f"{row['lean_temp_share']:.1%} (wanted at 65,536: {SHARE:.0%})")
    return row


def _torch(hidden: jax.Array, table: jax.Array, chosen: jax.Array):
    """A call of PyTorch's cross-entropy on the same numbers, gradients included."""
    import torch

    print(f"peer: PyTorch {importlib.metadata.version('torch')}, one thread")
    torch.set_num_threads(1)
    states, codes = (torch.tensor(np.array(x), requires_grad=True)
                     for x in (hidden, table))
    wanted = torch.tensor(np.array(chosen, np.int64))

    def call():
        states.grad = codes.grad = None
        torch.nn.functional.cross_entropy(states @ codes.T, wanted).backward()
    return call


def _alternate(*calls, rounds: int) -> list[list[float]]:
    """CPU seconds of each call, round by round; every other round in reverse order.

    A round repeats a call until it takes about 3 ms, well above the clock's grain.
    """
    for call in calls:
        for _ in range(3):
            jax.block_until_ready(call())
    repeats = max(1, round(3e-3 / _seconds(calls[0], 5)))
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        order = range(len(calls))
        for which in order if turn % 2 else reversed(order):
            times[which].append(_seconds(calls[which], repeats))
    return times


def _seconds(call, repeats: int) -> float:
    begun = time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.process_time() - begun) / repeats


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
