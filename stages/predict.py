"""predict@base, predict@tuned: distributions over the prices of the test split."""

import time
from pathlib import Path
from typing import Any

from pricer.files import read_parquet, write_json, write_parquet
from pricer.launch import join, launched
from pricer.model.base import choose_device
from pricer.params import read_params
from pricer.prices.distribution import calibration_offsets
from pricer.prices.predictions import make_predictions
from pricer.prices.predictor import Predictor
from pricer.stage import run_stage


def main(
    prompts_dir: Path,
    base_model_dir: Path,
    predictions_file: Path,
    calibration_file: Path,
    adapter_dir: Path | None = None,
) -> None:
    """Write `predictions_file` and `calibration_file`; without an adapter, the base model's."""
    params = read_params()
    device = choose_device(params.compute.device)
    if launched("stages.predict", params.compute, device=device.type):
        return
    rank, processes = join(device.type)
    predictor = Predictor(
        base_model_dir,
        adapter_dir,
        quantization=params.quantization.model_dump(),
        device=params.compute.device,
        dtype=params.compute.dtype,
        **params.predict.model_dump(exclude={"calibration_size"}),
    )
    shared: Any = {"progress": True, "rank": rank, "processes": processes}

    validation = read_parquet(prompts_dir / "validation.parquet")
    validation = validation.head(params.predict.calibration_size)
    known = predictor.distributions(validation["prompt"].tolist(), **shared)
    test = read_parquet(prompts_dir / "test.parquet")
    started = time.perf_counter()
    found = predictor.distributions(test["prompt"].tolist(), greedy=True, **shared)
    elapsed_s = time.perf_counter() - started
    if rank > 0:
        return

    offsets = calibration_offsets(validation["price"], known.probabilities)
    predictions = make_predictions(test, found, offsets, kind=params.predict.point)
    write_json(
        calibration_file,
        {
            "method": "conformalized quantile regression on log(1 + price)",
            "n": len(validation),
            "offsets": offsets,
        },
    )
    write_parquet(predictions_file, predictions)
    print(
        f"{len(test)} products, {len(test) / elapsed_s:.1f} a second with greedy text, "
        f"{int(predictions['greedy'].isna().sum())} of these without a number; "
        f"price mass {found.price_mass.mean():.3f}, left out {found.dropped_mass.mean():.4f}"
    )


if __name__ == "__main__":
    run_stage("predict", main)
