"""The page on clusters: its files parse, and say what JAX's own detection reads of them."""

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


SHELL = [*blocks("bash"), *blocks("sh")]


@pytest.fixture(scope="module")
def objects():
    """The Kubernetes objects of all manifests, by kind."""
    yaml = pytest.importorskip("yaml")
    found = [each for block in blocks("yaml") for each in yaml.safe_load_all(block)]
    kinds = {each["kind"]: each for each in found}
    assert len(kinds) == len(found) == 6
    return kinds


def as_object(x):
    """A manifest as the Kubernetes client gives it: attributes, in its own spelling."""
    if isinstance(x, dict):
        named = {re.sub(r"([A-Z])", r"_\1", key).lower(): as_object(x[key]) for key in x}
        return types.SimpleNamespace(**named)
    return [as_object(each) for each in x] if isinstance(x, list) else x


def bash(*arguments, program=None, **options):
    return subprocess.run(
        ["bash", *arguments], input=program, capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize("number", range(len(SHELL)))
def test_shell_parses(number):
    done = bash("-n", program=SHELL[number])
    assert done.returncode == 0 and not done.stderr


def test_python_compiles():
    (program,) = blocks("py")
    assert "initialize" in compile(program, "scale.md", "exec").co_names


def test_train_has_the_flags_of_the_page():
    from jax_softmax.cli.train import Train

    said = re.sub(r"\\\n", " ", "\n".join([*SHELL, *blocks("yaml")]))
    lines = re.findall(r"(?:jax-softmax\"? train|flags=\().*", said)
    assert len(lines) == 13
    flags = {flag for line in lines for flag in re.findall(r"[ (]--([a-z-]+)", line)}
    assert {"mesh", "distributed", "coordinator", "stream", "resume"} <= flags
    there = {field.name.replace("_", "-") for field in dataclasses.fields(Train)}
    assert flags <= there
    for mesh in re.findall(r"--mesh (\S+?)[\s)]", "\n".join(lines)):
        assert re.fullmatch(r"data=\d+(,model=\d+)?", mesh)


def run_script(script, tmp_path, run):
    """What a script hands to `jax-softmax`, with stand-ins for the programs that it calls."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("srun", "jax-softmax"):
        (folder / name).write_text('#!/bin/bash\nprintf "%s\\n" "$0" "$@"\n')
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "SOFTMAX_RUN": str(run),
        "SOFTMAX_ENVIRONMENT": "/environment",
    }
    done = bash("-c", script, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1:]


@pytest.mark.parametrize("left", [None, ".mnist.training", "mnist"])
def test_the_slurm_script_starts_and_goes_on(left, tmp_path):
    (script,) = [block for block in SHELL if block.startswith("#!")]
    run = tmp_path / "runs" / "mnist"
    run.parent.mkdir()
    if left:
        (run.parent / left).mkdir()
    words = run_script(script, tmp_path, run)
    flags = ["--resume", str(run)]
    if not left:
        flags = f"--run-dir {run} --epochs 500 --checkpoint-every 10 --mesh data=8,model=2".split()
    start = ["--kill-on-bad-exit=1", "/environment/bin/jax-softmax", "train", "mnist"]
    assert words == [*start, "--distributed", *flags]


def test_slurm_gives_a_task_to_each_gpu(monkeypatch):
    """As jax reads it: a process to each of 16 GPUs, which takes that of its number on the node."""
    clusters = pytest.importorskip("jax._src.clusters")
    (script,) = [block for block in SHELL if block.startswith("#!")]
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.M))
    assert options["gpus-per-node"] == options["ntasks-per-node"] == "8"
    assert not {"gpus-per-task", "gpu-bind"} & set(options)
    environment = {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "node[07-08]",
        "SLURM_NTASKS": str(int(options["nodes"]) * int(options["ntasks-per-node"])),
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
    }
    for name, value in environment.items():
        assert f"`{name}`" in PAGE
        monkeypatch.setenv(name, value)
    slurm = clusters.SlurmCluster
    assert slurm.is_env_present()
    assert slurm.get_coordinator_address(10, None) == "node07:61441"
    assert (slurm.get_process_count(), slurm.get_process_id()) == (16, 9)
    assert slurm.get_local_process_id() == 1


class Api:
    """Kubernetes' answers about the page's Job; remembers what it was asked."""

    def __init__(self, objects):
        self.asked = set()
        self.job, self.service = as_object(objects["Job"]), as_object(objects["Service"])
        # What the cluster adds: labels are a mapping, and a pod belongs to its Job.
        self.job.metadata.labels = objects["Job"]["metadata"]["labels"]
        template = objects["Job"]["spec"]["template"]
        self.pod = as_object(template)
        self.pod.metadata.name = "softmax-1-x7x7x"
        name = self.job.metadata.name
        self.pod.metadata.labels = {**template["metadata"]["labels"], "job-name": name}
        self.pod.metadata.owner_references = [types.SimpleNamespace(kind="Job", controller=True)]

    def list_namespaced_pod(self, namespace, field_selector):
        self.asked.add(("", "pods", "list"))
        return types.SimpleNamespace(items=[self.pod])

    def read_namespaced_job(self, name, namespace):
        assert name == self.job.metadata.name
        self.asked.add(("batch", "jobs", "get"))
        return self.job


@pytest.fixture
def kubernetes(objects, monkeypatch):
    """jax's detection, asking a stand-in for the cluster."""
    clusters = pytest.importorskip("jax._src.clusters")
    found = type("Found", (clusters.K8sCluster,), {})
    clusters.ClusterEnv._cluster_types.remove(found)  # it registers itself
    api = Api(objects)
    found._core_api = found._batch_api = api
    found._ApiException = RuntimeError
    found._namespace = classmethod(lambda cls: "default")
    monkeypatch.setenv("HOSTNAME", "localhost")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    cached = ("_pod", "_job", "_controller")
    for name in cached:
        getattr(clusters.K8sCluster, name).__func__.cache_clear()
    yield found, api
    for name in cached:
        getattr(clusters.K8sCluster, name).__func__.cache_clear()


def test_jax_finds_the_processes_of_the_kubernetes_job(kubernetes, objects):
    found, api = kubernetes
    assert found.get_coordinator_address(None, None) == "softmax-0.softmax:55527"
    assert "`softmax-0.softmax`, at port 55527" in PAGE
    assert (found.get_process_count(), found.get_process_id()) == (2, 1)
    assert found.get_local_process_id() is None  # a pod's process has all its GPUs
    granted = {
        (group, resource, verb)
        for rule in objects["Role"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert api.asked and api.asked <= granted
    assert granted - api.asked == {("", "services", "list")}  # for an error message


def test_the_kubernetes_objects_belong_together(objects):
    job, service = objects["Job"], objects["Service"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    assert service["spec"]["clusterIP"] == "None"  # in words, which YAML keeps: headless
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    account = objects["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account
    (subject,) = objects["RoleBinding"]["subjects"]
    assert (subject["kind"], subject["name"]) == ("ServiceAccount", account)
    assert objects["RoleBinding"]["roleRef"]["name"] == objects["Role"]["metadata"]["name"]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    claim = volumes["shared"]["persistentVolumeClaim"]["claimName"]
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    image = re.search(r"docker build -t (\S+) \.", PAGE)
    assert container["image"] == image[1]


@pytest.mark.parametrize("left", [None, ".mnist.training", "mnist"])
def test_the_pods_command_starts_and_goes_on(left, objects, tmp_path):
    (container,) = objects["Job"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-euc"]
    script = container["args"][0].replace("/shared", str(tmp_path))
    (tmp_path / "runs").mkdir()
    if left:
        (tmp_path / "runs" / left).mkdir()
    words = run_script("set -eu\n" + script, tmp_path, "unused")
    run = tmp_path / "runs" / "mnist"
    flags = f"--run-dir {run} --epochs 500 --checkpoint-every 10 --mesh data=8,model=2"
    flags = f"--resume {run}" if left else flags
    assert words == ["train", "mnist", "--distributed", *shlex.split(flags)]


def test_files_have_the_names_of_this_version():
    from jax_softmax import __version__

    named = re.findall(r"jax[-_]softmax[-:](\d+\.\d+\.\d+)", PAGE)
    assert len(named) == 3 and set(named) == {__version__}


def test_the_page_adds_up():
    """The steps, the operations and the hours that follow from what stands beside them."""
    rows, operations = 1e9, 6 * 1e9 * 4096 * 1e6
    said = " ".join(PAGE.split())
    assert f"{operations:.2e}".replace("+", "") == "2.46e19" and "| 2.46e19 |" in said
    for step, count in ((2**20, "954"), (2**16, "15,259")):
        assert f"{-(-rows // step):,.0f}" == count and f"| {step:,} | {count} |" in said
    assert f"{954 * 0.511 / 60:.1f}, {954 * 0.885 / 60:.1f}" == "8.1, 14.1"
    assert "8.1 to 14.1 min" in said and 511 + 335 + 39 == 885
    products = 6 * 2**16 * 4096 * 125_000 / 753e12
    assert f"{products * 1e3:.0f} ms for the products" in said
    assert f"{rows * 4096 * 2 / 1e12:.1f} TB" in said


ROOT = Path(__file__).resolve().parents[2]
ASKED = {
    "v5e": ("JAX_SOFTMAX_TPU_TESTS", "libtpu", "data=16,model=16", "1024"),
    "h100": ("JAX_SOFTMAX_GPU_TESTS", "jax_cuda13_plugin", "data=1,model=8", "4096"),
}


@pytest.mark.parametrize("machine", ASKED)
def test_the_compilers_say_what_the_page_says(machine, tmp_path):
    """Opt-in, as tests/ops/test_tpu_compile.py and test_gpu_compile.py are."""
    variable, compiler, mesh, rows = ASKED[machine]
    if os.environ.get(variable) != "1" or importlib.util.find_spec(compiler) is None:
        pytest.skip(f"opt-in: {variable}=1, and {compiler}")
    words = ["--step", "--on", machine, "--mesh", mesh, "--block-rows", rows]
    words += ["--json", str(tmp_path / "steps.json")]
    unwanted = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "benchmarks/pod.py", *words],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in unwanted}
        | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    step = json.loads((tmp_path / "steps.json").read_text())[0]
    of_memory = [
        line for line in PAGE.splitlines() if line.startswith("| **the most at any time**")
    ]
    held = [float(n) for n in re.findall(r"\*\*([\d.]+)\*\*", of_memory[0])]
    said = dict(zip(ASKED, held, strict=True))[machine]
    assert step["held_bytes"] / 1e9 == pytest.approx(said, rel=0.1)
    name = "| blocks of 1,024 |" if machine == "v5e" else f"| H100, `{mesh}` |"
    (line,) = (line for line in PAGE.splitlines() if line.startswith(name))
    moved, sent = re.findall(r"([\d.]+) GB", line)
    assert step["memory_bytes"] / 1e9 == pytest.approx(float(moved), rel=0.1)
    assert step["sent_bytes"] / 1e9 == pytest.approx(float(sent), rel=0.1)
