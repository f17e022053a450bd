"""A run whose files several exporters made, with integers in all their fates."""

from report_run import exported, measure, parity, records

FINDINGS = 30
LITERT, ONNX2TF = "tflite_litert", "tflite_onnx2tf"
UNABLE = "it offers no int4"
CRASH = "litert: no lowering of <aten>"


def candidate(exporter, weights="trained", top1=0.8, *, ms=1.0, size=5000, **changed):
    return {
        "exporter": exporter, "weights": weights, "state": "made", "why": "", "bytes": size,
        "gzip_bytes": size - 1000, "zstd_bytes": size - 1100, "validation_top1": top1,
        "parity": parity(steps=1.5) | {"psnr_db": 47.25}, "made_by": [f"{exporter} 1.2.3"],
        "inference": measure(ms, n=30, threads=1), "audit": None,
    } | changed  # fmt: skip


def refused(exporter, why):
    unknown = dict.fromkeys(("bytes", "parity", "validation_top1", "inference"))
    return candidate(exporter, state="refused", why=why, made_by=[], **unknown)


def island(number, place="inside"):
    return {
        "place": place, "first": f"silu_{number}", "last": f"mul_{number}",
        "types": ["LOGISTIC", "MUL"], "operators": 2, "macs": 4321 + number,
    }  # fmt: skip


def audit(islands=(), edges=(), **changed):
    port = {
        "name": "in", "dtype": "float32", "shape": [1, 8, 8, 1], "scale": 0.0123456,
        "zero_point": -7, "inside": "int8",
    }  # fmt: skip
    stored = [("int8", True, 6088), ("int32", True, 384), ("int8", False, 99_999)]
    return {
        "format": "tflite", "dtype": "int8", "operators": 12, "computing": 8,
        "int8_operators": 6, "macs": 1000, "int8_macs": 900,
        "macs_by_arithmetic": {"int8": 900, "fp32": 100}, "quantize_ops": 3,
        "dequantize_ops": 4, "cast_ops": 1, "islands": list(islands), "edges": list(edges),
        "dtypes": [
            {"dtype": dtype, "constant": constant, "tensors": 1, "bytes": size}
            for dtype, constant, size in stored
        ],
        "inputs": [port], "outputs": [port | {"dtype": "int8", "inside": None}],
    } | changed  # fmt: skip


def offered(file, scheme, made, best, elected, **more):
    """A file with its candidates, of which one is offered."""
    chosen = made[best]
    own = {key: chosen[key] for key in ("exporter", "weights", "validation_top1", "bytes")}
    entry = exported(scheme, "tflite", candidates=made, elected=elected, kept=[], **own)
    variant = file.removeprefix(f"model.{scheme}").removesuffix(".tflite").strip("-")
    return entry | {"file": file, "variant": variant, "zstd_bytes": 54_321} | more


def _files():
    worst = {"position": 1, "n": 40, "network": 0.9, "file": 0.75}
    trained = [
        candidate(LITERT, top1=0.8),
        candidate(LITERT, "qat", 0.85, ms=1.5),
        candidate(ONNX2TF, top1=0.8),
        candidate(ONNX2TF, "qat", 0.85, size=4900),
        candidate("tflite_third", "qat", 0.85, size=5120),
    ]
    plain = [
        candidate(LITERT, state="wrong", why="same class on 12 %, limit 90 %"),
        candidate(LITERT, "qat", 0.79),
        candidate(ONNX2TF, top1=0.8),
        candidate(ONNX2TF, "qat", 0.7),
    ]
    better = "onnx2tf after training with rounding is 5.0 points more accurate on the split"
    elected = [
        f"{better} than litert", "onnx2tf after training with rounding takes 1 ms, litert 1.5",
        f"{better} than onnx2tf", "it is as good as third and 220 bytes smaller",
    ]  # fmt: skip
    return [
        exported("float32", "onnx", exporter="onnx", weights="trained", validation_top1=0.82,
                 candidates=[candidate("onnx")], elected="only onnx made it"),
        offered(
            "model.int8.tflite", "int8", trained, 3, "; ".join(elected),
            audit=audit([island(n) for n in range(5)], [island(9, "output")]),
            parity=parity(steps=1.5) | {"network_top1": 0.9, "worst_class": worst},
        ),
        offered("model.int8-per-tensor.tflite", "int8", plain, 2, "a; b",
                audit=audit(int8_macs=1000, macs_by_arithmetic={"int8": 1000})),
        offered("model.int8-mixed.tflite", "int8", [candidate(LITERT)], 0, "only litert",
                kept=[{"layer": "head<1>", "why": "alone in int8: 12.5 dB"}]),
        exported("int4", "tflite", "refused", why="nobody", elected="nobody",
                 candidates=[refused(LITERT, CRASH), refused(ONNX2TF, UNABLE)]),
        exported("float16", "tflite", "wrong", why="largest difference 9, limit 1",
                 parity=parity(passed=False)),
        exported("weight_only", "tflite", audit=audit(
            dtype="w8", int8_macs=0, int8_operators=0, macs_by_arithmetic={"w8": 1000})),
    ]  # fmt: skip


def integer_records():
    """Records of a run with everything that is done for integers."""
    found = records()
    files = _files()
    found["recipe"]["quantize"] = {"max_accuracy_drop": 0.5}
    found["export"]["files"] = found["beside"]["export"]["files.json"] = files
    found["beside"]["profile"]["profile.json"] = {"files": [], "targets": []}
    found["export"]["accuracy_control"] = [
        {
            "file": "model.int8.tflite",
            "kept": [{"layer": "head<1>", "why": "alone in int8: 12.5 dB"}],
            "tries": [
                {"in_float": 0, "drop": 2.25, "holds": False},
                {"in_float": 1, "drop": -0.125, "holds": True},
            ],
            "why": "with 1 of 2 in float",
        },
        {
            "file": "model.int8-per-tensor.tflite",
            "kept": None, "tries": [{"in_float": 0, "drop": None, "holds": False}],
            "why": "even with 2 layers in float it does not hold",
        },
    ]  # fmt: skip
    found["quantize"] |= {
        "findings": [
            {"kind": "silu", "where": f"block{n}.act", "what": "SiLU rounds.",
             "remedy": "Train with <ReLU>."}
            for n in range(FINDINGS)
        ] + [
            {"kind": "mixed-output", "where": "boxes", "what": "two", "remedy": "Split."}
        ],
        "equalised": {
            "pairs": [{"scaled": 4}, {"scaled": 0}], "unpaired": [{"layer": "head"}],
            "worst": 1.5e-7,
        },
        "corrected": {"per-channel": [{"layer": "0", "relative": 0.0125}]},
        "ranking": [
            {"layer": "head<1>", "why": "alone in int8: 12.5 dB"},
            {"layer": "stem", "why": "alone in int8: 44.0 dB"},
        ],
        "qat": {"epochs": 2, "best_epoch": 1, "simulated_before": 0.8,
                "simulated_after": 0.84},
    }  # fmt: skip
    found["quantize"]["calibration"]["method"] = "percentile"
    return found
