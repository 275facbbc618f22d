"""The suites, and the reasons for what of them does not run. What runs is listed in ``passing/``."""

from pathlib import Path

from .suite import Suite


def listed(file: str) -> tuple[str, ...]:
    return tuple((Path(__file__).parent / "passing" / file).read_text().splitlines())


TIMM = Suite(
    project="timm",
    version="1.0.31",
    sha256="baa0b333339c46d3d6d4965d99b69f5053afed71210e8f433d7ea5ee6a18f0ec",
    plugin="timm_plugin",
    paths=("test_optim.py", "test_scheduler.py", "test_checkpoint_saver.py"),
    passing=listed("timm.txt"),
    deselected={
        f"test_optim.py::{case}": reason
        for case, reason in {
            "test_adafactor_": "about timm's Adafactor",
            "test_adahessian_": "about timm's AdaHessian",
            "test_adam_clipping_": "about an option of timm's AdamW and NAdamW",
            "test_adamuon_": "about timm's AdaMuon",
            "test_capturable_": "about timm's own classes, on CUDA",
            "test_compiled_": "about timm's AdamW, NAdamW and Muon",
            "test_complex_param_": "about complex parameters, which ours does not take",
            "test_corrected_weight_decay_": "about an option of timm's own",
            "test_kron_": "about timm's Kron",
            "test_laprop_": "about timm's LaProp",
            "test_lookahead_": "about timm's Lookahead around named optimizers of timm's",
            "test_mars_": "about timm's MARS",
            "test_muon_": "about timm's Muon",
            "test_novograd_": "about timm's NovoGrad",
            "test_optimizer_foreach_": "compares two implementations of timm's own classes",
            "test_optimizer_grad_unchanged[fltbase-True]": (
                "skips by itself: for timm's own classes with `foreach=`; ours has one implementation, "
                "which updates all tensors in one pass"
            ),
            "test_optimizer_low_precision[adabelief": "about an option of timm's AdaBelief",
            "test_optimizer_low_precision[kron": "about options of timm's Kron",
            "test_optimizer_low_precision[novograd": "about an option of timm's NovoGrad",
            "test_optimizer_resume[adabelief": "about an option of timm's AdaBelief",
            "test_optimizer_resume[kron": "about options of timm's Kron",
            "test_optimizer_resume[novograd": "about an option of timm's NovoGrad",
            "test_param_groups_": "about timm's grouping of a model's parameters",
        }.items()
    },
)

SAM = "SAM hands its own options (`adaptive`, `rho`, `foreach`) to the optimizer it wraps; ours refuses them"
FOREACH = "passes `foreach=`; ours has no such option, it always updates all tensors in one pass"
MOMENTUM = "passes `momentum=` to SGD"
SGD = "asserts the numbers that SGD gives"

PYTORCH_OPTIMIZER = Suite(
    project="pytorch-optimizer",
    version="4.1.0",
    sha256="76c994e94c0b2d0802976c14804a9de09d7055cd3b05db56a86d3295eced435f",
    plugin="pytorch_optimizer_plugin",
    paths=("",),
    passing=listed("pytorch-optimizer.txt"),
    deselected={
        "optimizers/": "each file is about one optimizer of theirs",
        "test_base.py": "about the class that their optimizers inherit from",
        "test_create_optimizer.py::TestCreateOptimizer::test_create_compiled_": FOREACH,
        "test_create_optimizer.py::TestCreateOptimizer::test_create_optimizer_compile_": "about their Yogi",
        "test_create_optimizer.py::TestCreateOptimizer::test_create_optimizer_with_lookahead[ranger": (
            "about their Ranger and Ranger21"
        ),
        "test_create_optimizer.py::TestCreateOptimizer::test_muon_": "about their Muon",
        "test_create_optimizer.py::TestOptionalIntegrations": "about optional packages of theirs",
        "test_docs.py": "about their documentation",
        "test_general_optimizer_parameters.py::TestBasicParameterValidation::test_epsilon": (
            "about the option `eps`, which ours has not"
        ),
        "test_general_optimizer_parameters.py::TestBasicParameterValidation::test_momentum": (
            "about the option `momentum`, which ours has not"
        ),
        "test_general_optimizer_parameters.py::TestBasicParameterValidation::test_wd_ratio": (
            "about an option of their AdamP and SGDP"
        ),
        "test_general_optimizer_parameters.py::TestBetaParameterValidation": (
            "about the options `beta` and `betas`, which ours has not"
        ),
        "test_general_optimizer_parameters.py::TestSpecialParameterValidation": (
            "about options of named optimizers of theirs"
        ),
        "test_gradients.py::TestSparseGradients::test_madgrad_": "about their MADGRAD",
        "test_gradients.py::TestSparseGradients::test_sparse[": (
            "for optimizers that take sparse gradients; ours is in `test_sparse_not_supported`"
        ),
        "test_gradients.py::TestSparseGradients::test_zero_epsilon": "as `test_sparse`, with `eps=`",
        "test_load_modules.py": "about the lists of their own optimizers, schedulers and losses",
        "test_loss_functions.py": "about their losses",
        "test_lr_schedulers.py::TestLRSchedulerParameters::test_chebyshev_": "no optimizer takes part",
        "test_lr_schedulers.py::test_deberta_": "no optimizer takes part",
        "test_lr_schedulers.py::test_get_chebyshev_scheduler": "no optimizer takes part",
        "test_optimizer_parameters.py": "about options of named optimizers of theirs",
        "test_optimizer_variants.py::test_coupled_": "about their Adalite, APOLLO and Kron",
        "test_optimizer_variants.py::test_variant_": "about options of named optimizers of theirs",
        "test_optimizers.py::TestOptimizerInterface::test_init_group": "about a method of their own",
        "test_optimizers.py::TestOptimizerTraining::test_tensor_lr": FOREACH,
        "test_test_helpers.py": "about the helpers of their tests",
        "test_wrapper_optimizers.py::TestBSAM": "about their BSAM, which wraps nothing",
        "test_wrapper_optimizers.py::TestLookahead::test_added_": SGD,
        "test_wrapper_optimizers.py::TestLookahead::test_lookahead_resume_": MOMENTUM,
        "test_wrapper_optimizers.py::TestMagma::test_magma_masks_": MOMENTUM,
        "test_wrapper_optimizers.py::TestOrthoGrad": SGD,
        "test_wrapper_optimizers.py::TestPCGrad::test_checkpoint_": MOMENTUM,
        "test_wrapper_optimizers.py::TestPCGrad::test_pcgrad_preserves_": SGD,
        "test_wrapper_optimizers.py::TestSAM": SAM,
        "test_wrapper_optimizers.py::TestTRAC::test_trac_checkpoint_": MOMENTUM,
        "test_wrapper_optimizers.py::TestWSAM": SAM,
        "utils/": "about their helpers",
    },
)

SUITES = (TIMM, PYTORCH_OPTIMIZER)
