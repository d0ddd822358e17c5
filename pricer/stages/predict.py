"""predict, predict_base: distributions over the prices of the test split."""

import time
from pathlib import Path
from typing import Any

from pricer.files import read_parquet, write_parquet
from pricer.launch import first_here, join, launched
from pricer.model.adapters import adapter_sha256
from pricer.model.base import base_model_sha256, choose_device, choose_dtype, dtype_name
from pricer.params import read_params
from pricer.prices.batches import Share
from pricer.prices.distribution import calibration_offsets, fit_center
from pricer.prices.predictions import make_predictions
from pricer.prices.predictor import Predictor
from pricer.prices.record import Calibration, ServingRecord, told_evidence, write_record
from pricer.provenance import folder_digest


def main(
    prompts_dir: Path,
    evidence_models_dir: Path,
    base_model_dir: Path,
    predictions_file: Path,
    validation_file: Path,
    record_file: Path,
    adapter_dir: Path | None = None,
) -> None:
    """Write the predictions of both splits and `record_file`; without an adapter, the base's."""
    params = read_params()
    device = choose_device(params.compute.device)
    if launched(params.compute, device=device.type):
        return
    share = Share(*join(device.type))
    record = ServingRecord(
        cutoff=params.prompts.cutoff,
        quantization=params.quantization,
        dtype=dtype_name(choose_dtype(params.compute.dtype, device)),
        **params.predict.model_dump(exclude={"calibration_size"}),
    )
    predictor = Predictor(
        base_model_dir,
        adapter_dir,
        settings=record,
        device=params.compute.device,
        dequantize=params.compute.dequantize,
    )
    shared: Any = {"progress": True, "share": share}

    validation = read_parquet(prompts_dir / "validation.parquet")
    # what an adapter was selected on, it is better at than at other products
    validation = validation.iloc[params.train.selection_size :]
    validation = validation.head(params.predict.calibration_size)
    known = predictor.distributions(
        validation["prompt"].tolist(), greedy=params.predict.point == "greedy", **shared
    )
    known.check_usable(validation["id"])
    test = read_parquet(prompts_dir / "test.parquet")
    started = time.perf_counter()
    found = predictor.distributions(test["prompt"].tolist(), greedy=True, **shared)
    elapsed_s = time.perf_counter() - started
    found.check_usable(test["id"])
    if not first_here():
        return

    told = told_evidence(params.evidence)
    if told:
        told = told.model_copy(update={"models_sha256": folder_digest(evidence_models_dir)})
    intercept, slope = fit_center(validation["price"], known.probabilities)
    known, found = (said.recentered(intercept, slope) for said in (known, found))
    offsets = calibration_offsets(validation["price"], known.probabilities)
    kind = params.predict.point
    predictions = make_predictions(test, found, offsets, kind=kind)
    write_parquet(validation_file, make_predictions(validation, known, offsets, kind=kind))
    calibration = Calibration(
        method="conformalized quantile regression on log(1 + price)",
        n=len(validation),
        offsets=offsets,
        intercept=intercept,
        slope=slope,
    )
    write_record(
        record_file,
        record.model_copy(
            update={
                "evidence": told,
                "calibration": calibration,
                "base_model_sha256": base_model_sha256(base_model_dir),
                "adapter_sha256": adapter_sha256(adapter_dir) if adapter_dir else None,
            }
        ),
    )
    write_parquet(predictions_file, predictions)
    print(
        f"{len(test)} products, {len(test) / elapsed_s:.1f} a second with greedy text, "
        f"{int(predictions['greedy'].isna().sum())} of these without a number; "
        f"price mass {found.price_mass.mean():.3f}, left out {found.dropped_mass.mean():.4f}"
    )
    if (intercept, slope) != (0, 1):
        print(
            f"medians moved to {intercept:+.3f} {slope:+.3f} x log(1 + price): "
            f"{len(validation)} validation products say so"
        )
