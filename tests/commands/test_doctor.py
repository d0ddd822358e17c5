import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from pricer.commands import checkup
from pricer.commands import main as cli
from pricer.commands.checkup import cpu_features, examine
from pricer.commands.runs import read_revision
from pricer.errors import PricerError
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with params and pins, under git and DVC, without any result, on a roomy machine."""
    for name in ("params.yaml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("['remote \"store\"']\n    url = /somewhere\n")
    for command in ("init -q", "add -A", "commit -qm start"):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *command.split()], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    for name in checkup.TOKENS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(checkup, "memory_bytes", lambda: 16 * 2**30)
    usage = shutil.disk_usage(tmp_path)._replace(free=10**11)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    return tmp_path


def problems(project: Path) -> list[tuple[str, bool]]:
    return [(f.problem, f.fatal) for f in examine(project) if f.problem]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_machine_that_can_train_has_no_problem(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    found = {finding.what: finding for finding in examine(project)}
    assert not any(finding.problem for finding in found.values())
    # a CUDA build's own version says more than what is installed by
    assert found["torch"].value == version("torch")
    assert torch.__version__.startswith(found["torch"].value)
    assert found["device"].value == "cpu (compute.device is auto)"
    assert (
        found["precision"].value == "nf4, computed in bfloat16 (auto: what the CPU multiplies fast)"
    )
    assert "the published architecture of HuggingFaceTB/SmolLM2-135M" in (
        found["memory to train"].value
    )
    assert found["DVC remote"].value == "store"
    assert found["git"].value.endswith(", 0 files changed or new")


def test_the_command_ends_in_problems_and_exit_code_1(project, monkeypatch, capsys):
    edit(project / "params.yaml", "device: auto", "device: cuda:7")
    monkeypatch.setattr("sys.argv", ["pricer", "doctor"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "! precision " in shown
    last = shown.splitlines()[-1]
    assert last.startswith("fatal compute.device is cuda:7, but torch sees 0 GPUs: set it to")
    assert "\n1 problem\n" in shown


def test_other_versions_than_pinned_are_told(project):
    edit(project / "constraints.txt", "numpy==", "numpy==0.0.")
    edit(project / "constraints.txt", "peft==", "peft==0.0.")
    told = problems(project)
    assert [problem.split(",")[0][:8] for problem, _ in told] == ["numpy is", "peft is "]
    assert not any(fatal for _, fatal in told)


def test_a_projects_own_pins_are_those_it_was_begun_with(project):
    (project / "constraints.txt").unlink()
    pins = "# pricer==0.0.1: install its wheel\n# peft==0.0.1\nnumpy==0.0.2  # caf\u00e9\n"
    (project / "requirements.txt").write_text(pins)
    numpy, pricer = (problem for problem, _ in problems(project))
    assert numpy.startswith("numpy is ")
    assert numpy.endswith("`pip install -r requirements.txt` mends it")
    # PyPI has a stranger's package under this name
    assert pricer.startswith("pricer is ") and "pinned is 0.0.1" in pricer
    assert "pip install" not in pricer and pricer.endswith("PyPI's pricer is another project's")


def test_params_that_are_wrong_are_told_and_the_machine_all_the_same(project):
    edit(project / "params.yaml", "  r: 16", "  r: 0")
    found = list(examine(project))
    assert "lora.r must be" in found[-1].problem and found[-1].fatal
    assert any(finding.what == "memory" for finding in found)


def test_too_little_memory_and_disk_are_told_with_what_to_do(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(checkup, "memory_bytes", lambda: 2**30)
    usage = shutil.disk_usage(project)._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    told = problems(project)
    line = (
        r"training needs about \d\.\d GiB, cpu has 1\.0: lower train\.per_device_train_batch_size"
    )
    assert re.match(line, told[0][0])
    assert told[0][1] is False
    fatal = [problem for problem, fatal in told[1:] if fatal]
    assert len(told) == 5 and len(fatal) == 1
    assert "/.checkpoints, 0.2 GB may be needed" in fatal[0]


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_that_bitsandbytes_cannot_use_is_told(project, monkeypatch, supported):
    class Properties:
        name, total_memory = "Tesla T4", 16 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: (7, 5))
    monkeypatch.setattr("bitsandbytes.cextension.lib.compiled_with_cuda", supported, raising=False)
    found = {finding.what: finding for finding in examine(project)}
    assert found["cuda:0"].value == "Tesla T4, 16.0 GiB, compute capability 7.5"
    assert found["precision"].value.startswith("nf4, computed in float16 (auto: what the GPU")
    assert found["bitsandbytes"].fatal
    assert (found["bitsandbytes"].problem is None) == supported


def test_what_the_train_stage_would_refuse_is_fatal(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("pricer.training.checks.importlib.util.find_spec", lambda name: None)
    edit(project / "params.yaml", "optim: adamw_torch_fused", "optim: paged_adamw_32bit")
    edit(project / "params.yaml", "report_to: []", "report_to: [tensorboard, mlflow]")
    edit(project / "params.yaml", "backup: null", "backup: s3://shop/checkpoints")
    edit(project / "params.yaml", "processes: 1", "processes: 2")
    edit(project / "params.yaml", "strategy: ddp", "strategy: fsdp")
    edit(project / "params.yaml", "target_modules: all-linear", "target_modules: [qproj]")
    fatal = [problem for problem, fatal in problems(project) if fatal]
    assert [problem.split(":")[0] for problem in fatal] == [
        "train.optim paged_adamw_32bit needs a GPU",
        "compute.strategy fsdp needs GPUs",
        "train.backup s3",
        "train.report_to names tensorboard, mlflow, not installed",
        "lora.target_modules",
    ]


def test_tokens_are_never_shown(project, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "wandb_secret")
    found = {finding.what: finding for finding in examine(project)}
    assert found["HF_TOKEN"].value == found["WANDB_API_KEY"].value == "set"
    assert "secret" not in repr(list(found.values()))


def test_a_missing_token_matters_where_it_is_needed(project, monkeypatch):
    edit(project / "params.yaml", "source: pypi", "source: hub")
    edit(project / "params.yaml", "report_to: []", "report_to: [wandb]")
    told = [problem for problem, _ in problems(project)]
    assert any("HF_TOKEN is not set, and meta-llama/Llama-3.2-3B may be gated" in p for p in told)
    assert any("WANDB_API_KEY is not set" in problem for problem in told)


def test_a_folder_without_git_and_dvc_is_fatal(project):
    shutil.rmtree(project / ".git")
    shutil.rmtree(project / ".dvc")
    told = problems(project)
    assert [fatal for _, fatal in told] == [True, True]
    assert "git add -A" in told[0][0] and "project's root" in told[1][0]


def test_no_git_on_the_machine_is_fatal(project, monkeypatch):
    monkeypatch.setattr(checkup, "which", lambda command: None if command == "git" else command)
    assert ("git is not installed, and DVC's experiments need it: install it", True) in problems(
        project
    )


def test_no_password_and_no_control_character_is_shown(project, monkeypatch, capsys):
    finding = checkup.Finding("a", "b", "https://me:secret@hub\x1b[2J", "http://me:secret@hub\n")
    monkeypatch.setattr(checkup, "examine", lambda root: [finding])
    monkeypatch.setattr("sys.argv", ["pricer", "doctor"])
    cli.main()
    shown = capsys.readouterr().out
    assert "https://hub\\x1b[2J" in shown and "secret" not in shown and "\x1b" not in shown


def test_comparing_with_a_revision_outside_of_git_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PricerError, match="'HEAD' is no predictor here, and revisions and exper"):
        read_revision(Path("data/predictions/tuned.parquet"), "HEAD")


def test_a_project_in_a_folder_of_a_repository_has_earlier_runs_too(project, monkeypatch):
    shop = project / "shop"
    shop.mkdir()
    (shop / ".dvc").mkdir()
    (shop / "scores.json").write_text("1")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in ("add -f -A", "commit -qm run"):
        subprocess.run(["git", *identity, *command.split()], cwd=shop, check=True)
    (shop / "scores.json").write_text("2")
    (project / "elsewhere").touch()
    monkeypatch.chdir(shop)
    git = next(f for f in checkup.check_repositories(Path()) if f.what == "git")
    assert git.value.endswith(", 1 files changed or new")
    assert read_revision(Path("scores.json"), "HEAD").read() == b"1"


def test_cpu_features_are_read_where_linux_lists_them(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    flags = "fpu avx2 avx512f amx_bf16 avx512_bf16x"
    cpuinfo.write_text(f"model name\t: Some CPU\nflags\t\t: {flags}\n")
    assert cpu_features(cpuinfo) == ("Some CPU", ["avx2", "avx512f", "amx_bf16"])
    assert cpu_features(tmp_path / "none") == ("", [])
