"""Options of XLA that compile quickly: for programs whose claim no optimisation changes."""

from importlib.metadata import version

UNOPTIMISED: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,  # a program's parts by threads: there are workers
}
if version("jaxlib").startswith("0.10."):  # later ones do not know it
    UNOPTIMISED["xla_cpu_use_fusion_emitters"] = False
