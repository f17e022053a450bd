import csv

import pytest

from pipeline.core.errors import PareError
from pipeline.profilers.published import NETWORKS, Published, count, published

HEAD = "model,device,unit,runtime,dtype,threads,ms,statistic,source,note"

# Millions of multiply-accumulates of the literature.
LITERATURE = {
    "MobileNetV1-1.0-224": 568.7, "MobileNetV2-1.0-224": 300.8, "MobileNetV3-Large-224": 216.6,
    "MobileNetV3-Small-224": 56.5, "MnasNet-1.0": 314.4, "EfficientNet-B0": 385.8,
    "ResNet18": 1814.0, "ResNet50-v1": 3858.0, "SqueezeNet-1.1-227": 387.7, "VGG16": 15470.0,
    "ShuffleNetV2-1.0": 146.0, "Inception-V3": 5713.0, "MobileNetV1-0.25-128": 13.6,
    "MobileNetV2-0.35-96": 11.9, "MobileNetV2-1.4-224": 582.0,
}  # fmt: skip


def table(tmp_path, *rows: str):
    path = tmp_path / "table.csv"
    path.write_text("\n".join([HEAD, *rows]), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", LITERATURE)
def test_a_network_has_the_macs_of_the_literature(name):
    assert count(name).macs / 1e6 == pytest.approx(LITERATURE[name], rel=0.01)


def test_torchvisions_resnet50_is_another_network_than_the_first_one():
    assert count("ResNet50").macs / count("ResNet50-v1").macs == pytest.approx(1.06, abs=0.01)


def test_every_network_is_built_somewhere():
    assert set(LITERATURE) <= set(NETWORKS)
    assert len(NETWORKS) == 29


def test_the_table_that_ships_has_its_runtimes():
    rows = published()
    found = dict.fromkeys(("XNNPACK", "ncnn", "TFLite", "onnxruntime"), 0)
    for row in rows:
        found[row.runtime] += 1
    assert found == {"XNNPACK": 54, "ncnn": 471, "TFLite": 41, "onnxruntime": 18}
    assert sum(row.disturbed for row in rows) == 13


def test_rows_of_accelerators_and_unknown_networks_are_not_used(tmp_path):
    path = table(
        tmp_path,
        "MobileNetV1-1.0-224,Board,EdgeTPU,TFLite,uint8,-,2.2,mean,s,",
        "YOLO11n-640,Board,,TFLite,fp32,4,300,mean,s,",
        "ResNet18,Hailo-8,NPU,HailoRT,int8,-,0.4,1/FPS,s,",
        "ncnn:resnet18_int8,Board,all,ncnn benchncnn,int8,4,10,mean,s,min 9.5 max 11",
    )
    (row,) = published(path)
    assert (row.network, row.runtime, row.tool) == ("ResNet18", "ncnn", "ncnn benchncnn")
    assert (row.ms, row.fastest_ms, row.activation_width) == (10, 9.5, 1)


@pytest.mark.parametrize(("ms", "disturbed"), [(12.5, False), (12.6, True)])
def test_a_row_is_disturbed_beyond_a_multiple_of_its_own_fastest_run(ms, disturbed):
    row = Published(
        model="m", network="ResNet18", device="d", unit="", runtime="ncnn", tool="ncnn",
        dtype="int8", threads="4", ms=ms, fastest_ms=10,
    )  # fmt: skip
    assert row.disturbed is disturbed
    assert row.model_copy(update={"fastest_ms": None}).disturbed is False


@pytest.mark.parametrize("ms", ["", "fast", "0", "-3", "nan"])
def test_a_row_without_a_latency_is_refused_by_its_line(tmp_path, ms):
    path = table(tmp_path, f"ResNet18,Board,,TFLite,fp32,4,{ms},mean,s,")
    with pytest.raises(PareError, match=r"table\.csv, line 2: ms = .* is no latency"):
        published(path)


def test_a_row_that_ends_early_is_refused_by_its_line(tmp_path):
    with pytest.raises(PareError, match=r"line 2: ms = '' is no latency"):
        published(table(tmp_path, "ResNet18,Board,,TFLite,fp32"))


def test_a_table_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(PareError, match="no table of latencies: it has no column 'device'"):
        published(path)
    with pytest.raises(PareError, match="can't be read"):
        published(tmp_path / "none.csv")


def test_every_row_that_ships_names_its_source():
    from pipeline.core.target import shipped

    path = next(iter(shipped().values())).parent / "device_latencies.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 895
    assert all(row["source"] for row in rows)
