"""Faults of training: the step, the optimizer and the learning rate."""

from tests.faults.fault import Fault

FAULTS = (
    # The trainers.
    Fault(
        "torch: accumulated gradients are summed",
        "gpt_torch/train.py::train_step",
        "loss_fn(state.model, x_micro, y_micro, dtype) / len(x)",
        "loss_fn(state.model, x_micro, y_micro, dtype)",
    ),
    Fault(
        "flax: accumulated gradients are summed",
        "gpt_flax/train.py::train_step",
        "loss_fn(p, model, x_micro, y_micro, dtype) / len(x)",
        "loss_fn(p, model, x_micro, y_micro, dtype)",
    ),
    Fault(
        "torch: clipping before the gradients are all there",
        "gpt_torch/train.py::train_step",
        "losses.append(loss.detach())",
        """
        losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), grad_clip)
        """,
    ),
    Fault(
        "torch: gradients pile up over steps",
        "gpt_torch/train.py::train_step",
        "state.optimizer.zero_grad()",
        "pass",
    ),
    Fault(
        "torch: the learning rate of the next step",
        "gpt_torch/train.py::train_together",
        "learning_rate(step, options)",
        "learning_rate(step + 1, options)",
    ),
    Fault(
        "flax: the learning rate of the next step",
        "gpt_flax/train.py::train_together",
        "learning_rate(step, options)",
        "learning_rate(step + 1, options)",
    ),
    Fault(
        "flax: the state is that of before the update",
        "gpt_flax/train.py::train_step",
        "TrainState(params, opt_state, scaler)",
        "TrainState(params, state.opt_state, scaler)",
    ),
    Fault(
        "torch: evaluation leaves the loader where it is",
        "gpt_torch/train.py::evaluate",
        'loader.restore({"position": 0})',
        "pass",
    ),
    Fault(
        "torch: evaluation is of the first batch",
        "gpt_torch/train.py::evaluate",
        "torch.stack(losses).mean()",
        "losses[0]",
    ),
    Fault(
        "flax: evaluation is of the last batch",
        "gpt_flax/train.py::evaluate",
        "jnp.stack(losses).mean()",
        "losses[-1]",
    ),
    Fault(
        "torch: a checkpoint never proves itself",
        "gpt_torch/train.py::train_together",
        "run.remove_older()",
        "pass",
    ),
    Fault(
        "flax: a checkpoint never proves itself",
        "gpt_flax/train.py::train_together",
        "run.remove_older()",
        "pass",
    ),
    Fault(
        "torch: evaluation is of the training data",
        "gpt_torch/train.py::after_step",
        "run.val_loader, output.eval_steps",
        "run.train_loader, output.eval_steps",
    ),
    Fault(
        "flax: --eval_steps is not used",
        "gpt_flax/train.py::after_step",
        "output.eval_steps",
        "1",
    ),
    Fault(
        "torch: a stop waits for the evaluation",
        "gpt_torch/train.py::after_step",
        "evaluate(state.model, *batches, dtype, device, run.stopped)",
        "evaluate(state.model, run.val_loader, 9, dtype, device)",
    ),
    Fault(
        "flax: a stop waits for the evaluation",
        "gpt_flax/train.py::after_step",
        "evaluate(state.params, model, *batches, dtype, mesh, run.stopped)",
        "evaluate(state.params, model, run.val_loader, 9, dtype)",
    ),
    Fault(
        "torch: an evaluation is reported before its step",
        "gpt_torch/train.py::after_step",
        """
        run.log.flush()
        batches = run.val_loader, output.eval_steps
        """,
        "batches = run.val_loader, output.eval_steps",
    ),
    Fault(
        "flax: an evaluation is reported before its step",
        "gpt_flax/train.py::after_step",
        """
        run.log.flush()
        batches = run.val_loader, output.eval_steps
        """,
        "batches = run.val_loader, output.eval_steps",
    ),
    Fault(
        "torch: samples are reported before their step",
        "gpt_torch/train.py::after_step",
        """
        run.log.flush()
        with gathered(state.model) as model:
            run.log.samples(step, generate_texts(model, *run.samples, dtype))
        """,
        "run.log.samples(step, generate_texts(state.model, *run.samples, dtype))",
    ),
    Fault(
        "flax: samples are reported before their step",
        "gpt_flax/train.py::after_step",
        """
        run.log.flush()
        params = gathered(state.params, mesh)
        """,
        "params = gathered(state.params, mesh)",
    ),
    Fault(
        "torch: a stop waits for samples",
        "gpt_torch/train.py::after_step",
        "run.samples and not stop and run.is_due(output.sample_every, step)",
        "run.samples and run.is_due(output.sample_every, step)",
    ),
    Fault(
        "flax: a stop waits for samples",
        "gpt_flax/train.py::after_step",
        "run.samples and not stop and run.is_due(output.sample_every, step)",
        "run.samples and run.is_due(output.sample_every, step)",
    ),
    Fault(
        "torch: --device does not reach the trainer",
        "gpt_torch/train.py::train",
        "select_device(runtime.device, dtype)",
        'select_device("auto", dtype)',
    ),
    Fault(
        "flax: --device does not reach the trainer",
        "gpt_flax/train.py::train",
        "select_device(runtime.device, dtype)",
        'select_device("auto", dtype)',
    ),
    Fault(
        "torch: auto is what another device has",
        "gpt_torch/train.py::train",
        "resolve_dtype(runtime.dtype, runtime.device)",
        'resolve_dtype(runtime.dtype, "auto")',
    ),
    Fault(
        "flax: auto is what another device has",
        "gpt_flax/train.py::train",
        "resolve_dtype(runtime.dtype, runtime.device)",
        'resolve_dtype(runtime.dtype, "auto")',
    ),
    Fault(
        "torch: bfloat16 is evaluated in float32",
        "gpt_torch/train.py::after_step",
        "evaluate(state.model, *batches, dtype, device, run.stopped)",
        'evaluate(state.model, *batches, "float32", device, run.stopped)',
    ),
    Fault(
        "torch: bfloat16 trains in float32",
        "gpt_torch/train.py::train_together",
        "step_fn(state, x, y, rate, options.grad_clip, dtype)",
        'step_fn(state, x, y, rate, options.grad_clip, "float32")',
    ),
    Fault(
        "flax: bfloat16 trains in float32",
        "gpt_flax/train.py::train_together",
        "mesh = make_mesh(config, device)",
        """
        mesh = make_mesh(config, device)
        dtype = "float32"
        """,
    ),
    Fault(
        "torch: samples in training are in float32",
        "gpt_torch/train.py::after_step",
        "generate_texts(model, *run.samples, dtype)",
        'generate_texts(model, *run.samples, "float32")',
    ),
    Fault(
        "flax: the trainer keeps no compiled program",
        "gpt_flax/train.py::main",
        "enable_compilation_cache()",
        "pass",
    ),
    Fault(
        "torch: evaluation keeps the graph of every batch",
        "gpt_torch/train.py::evaluate",
        "torch.no_grad()",
        "torch.enable_grad()",
    ),
    Fault(
        "flax: a step does not give the old state's memory away",
        "gpt_flax/train.py::compile_train_step",
        '"state"',
        "()",
    ),
    Fault(
        "flax: the memory scheduler never reaches the training step",
        "gpt_flax/train.py::compile_train_step",
        "train_step_options(ops, jax.__version_info__)",
        "None",
    ),
    Fault(
        "flax: the trainer's step is compiled as a plain one",
        "gpt_flax/train.py::train_together",
        "compile_train_step(ops, mesh)",
        "compile_train_step(None, mesh)",
    ),
    Fault(
        "torch: the trainer's choice never reaches the model",
        "gpt_torch/train.py::train_together",
        "create_state(run.start, run.config, device, ops, mesh)",
        "create_state(run.start, run.config, device, None, mesh)",
    ),
    Fault(
        "torch: --compile compiles nothing",
        "gpt_torch/train.py::train_together",
        "compile_train_step(state.model) if runtime.compile else train_step",
        "train_step",
    ),
    Fault(
        "flax: of accumulated gradients the last remain",
        "gpt_flax/train.py::train_step",
        "optax.tree.add(total, value_and_grad(state.params, *micro))",
        "value_and_grad(state.params, *micro)",
    ),
    # AdamW, clipping and the gradient norm.
    Fault(
        "flax: clipped gradients are discarded",
        "gpt_flax/optimizer.py::clip_and_update",
        "gradients, norm = clip_by_global_norm(gradients, max_norm)",
        "_, norm = clip_by_global_norm(gradients, max_norm)",
    ),
    Fault(
        "flax: no bias correction",
        "gpt_flax/optimizer.py::clip_and_update",
        "updates, new_opt_state = optimizer.update(gradients, opt_state, params)",
        """
        opt_state = optax.tree.set(opt_state, count=jnp.int32(10**6))
        updates, new_opt_state = optimizer.update(gradients, opt_state, params)
        """,
    ),
    Fault(
        "torch: clipping is by value",
        "gpt_torch/optimizer.py::clip_by_global_norm",
        "torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + CLIP_EPSILON), max=1.0))",
        """
        for gradient in gradients:
            gradient.clamp_(-max_norm, max_norm)
        """,
    ),
    Fault(
        "torch: weight decay is Adam's L2 penalty",
        "gpt_torch/optimizer.py::create_optimizer",
        "return AdamW(groups, lr=options.learning_rate, betas=betas, eps=options.eps, fused=True)",
        "return torch.optim.Adam(groups, lr=options.learning_rate, betas=betas,"
        " eps=options.eps, fused=True)",
    ),
    Fault(
        "flax: decay is not scaled by the learning rate",
        "gpt_flax/optimizer.py::clip_and_update",
        "p + learning_rate * u",
        "p + learning_rate * u - 1e-4 * p",
    ),
    Fault(
        "torch: the head is untied after a step",
        "gpt_torch/optimizer.py::clip_and_update",
        "optimizer.step()",
        """
        optimizer.step()
        model.wte.weight = nn.Parameter(model.wte.weight.detach().clone())
        """,
    ),
    Fault(
        "torch: everything decays",
        "gpt_torch/optimizer.py::has_weight_decay",
        "return parameter.ndim >= 2",
        "return parameter.ndim >= 1",
    ),
    Fault(
        "flax: nothing decays",
        "gpt_flax/optimizer.py::has_weight_decay",
        "parameter.ndim >= 2",
        "parameter.ndim >= 3",
    ),
    Fault(
        "torch: AdamW's own decay",
        "gpt_torch/optimizer.py::create_optimizer",
        "options.weight_decay",
        "1e-2",
    ),
    Fault(
        "flax: optax's own decay",
        "gpt_flax/optimizer.py::create_optimizer",
        "options.weight_decay",
        "1e-4",
    ),
    Fault(
        "torch: the betas of torch",
        "gpt_torch/optimizer.py::create_optimizer",
        "AdamW(groups, lr=options.learning_rate, betas=betas, eps=options.eps, fused=True)",
        "AdamW(groups, lr=options.learning_rate, eps=options.eps, fused=True)",
    ),
    Fault(
        "flax: the betas change places",
        "gpt_flax/optimizer.py::create_optimizer",
        "options.beta1",
        "options.beta2",
    ),
    Fault(
        "flax: epsilon inside the root",
        "gpt_flax/optimizer.py::create_optimizer",
        """
        return optax.adamw(
            learning_rate=1.0,
            b1=options.beta1,
            b2=options.beta2,
            eps=options.eps,
            weight_decay=options.weight_decay,
            mask=lambda params: jax.tree.map(has_weight_decay, params),
        )
        """,
        """
        return optax.adamw(
            learning_rate=1.0,
            b1=options.beta1,
            b2=options.beta2,
            eps=0.0,
            eps_root=options.eps,
            weight_decay=options.weight_decay,
            mask=lambda params: jax.tree.map(has_weight_decay, params),
        )
        """,
    ),
    Fault(
        "torch: epsilon is fixed",
        "gpt_torch/optimizer.py::create_optimizer",
        "options.eps",
        "1e-8",
    ),
    Fault(
        "flax: no epsilon in clipping",
        "gpt_flax/optimizer.py::clip_by_global_norm",
        "norm + CLIP_EPSILON",
        "norm",
    ),
    Fault(
        "torch: clipping also enlarges",
        "gpt_torch/optimizer.py::clip_by_global_norm",
        "torch.clamp(max_norm / (norm + CLIP_EPSILON), max=1.0)",
        "max_norm / (norm + CLIP_EPSILON)",
    ),
    Fault(
        "flax: clipping at 0 makes all gradients 0",
        "gpt_flax/optimizer.py::clip_by_global_norm",
        "max_norm > 0",
        "max_norm >= 0",
    ),
    Fault(
        "torch: the norm adds up one by one",
        "gpt_torch/optimizer.py::global_norm",
        "torch.stack([r.square().sum() for r in rows]).sum().sqrt()",
        "torch.linalg.vector_norm(torch.cat([r.flatten() for r in rows]))",
    ),
    Fault(
        "torch: the norm is a sum of norms",
        "gpt_torch/optimizer.py::global_norm",
        "torch.stack([r.square().sum() for r in rows]).sum().sqrt()",
        "torch.stack([r.square().sum().sqrt() for r in rows]).sum()",
    ),
    Fault(
        "flax: the norm squared",
        "gpt_flax/optimizer.py::global_norm",
        "optax.tree.norm(gradients)",
        "optax.tree.norm(gradients, squared=True)",
    ),
    Fault(
        "torch: the moments change places on the way out",
        "gpt_torch/optimizer.py::state_to_hf",
        's["exp_avg"]',
        's["exp_avg_sq"]',
    ),
    Fault(
        "torch: bias correction starts again after a resume",
        "gpt_torch/optimizer.py::restore_state",
        "float(step)",
        "float(0)",
    ),
    Fault(
        "flax: bias correction starts again after a resume",
        "gpt_flax/optimizer.py::restore_state",
        "np.array(step)",
        "np.array(0)",
    ),
    Fault(
        "flax: the second moment is lost in a resume",
        "gpt_flax/optimizer.py::restore_state",
        "from_hf(training.exp_avg_sq, config, dtype, mesh)",
        'optax.tree.get(opt_state, "nu")',
    ),
    Fault(
        "torch: a resumed AdamW counts the run's steps",
        "gpt_torch/optimizer.py::restore_state",
        "training.adamw_step",
        "training.step",
    ),
    Fault(
        "flax: a resumed AdamW counts the run's steps",
        "gpt_flax/optimizer.py::restore_state",
        "training.adamw_step",
        "training.step",
    ),
    # The learning rate.
    Fault(
        "schedule: warm-up starts at 0",
        "gpt_common/schedule.py::learning_rate",
        "step + 1",
        "step",
    ),
    Fault(
        "schedule: warm-up takes one step more",
        "gpt_common/schedule.py::learning_rate",
        "step < options.warmup_steps",
        "step <= options.warmup_steps",
    ),
    Fault(
        "schedule: the cosine begins with the run",
        "gpt_common/schedule.py::learning_rate",
        "step - options.warmup_steps",
        "step",
    ),
    Fault(
        "schedule: the cosine goes down to 0",
        "gpt_common/schedule.py::learning_rate",
        "options.min_lr + cosine * (options.learning_rate - options.min_lr)",
        "cosine * options.learning_rate",
    ),
    Fault(
        "schedule: the peak always ends the warm-up",
        "gpt_common/schedule.py::learning_rate",
        'options.warmup_steps + (options.warmup_peak == "next")',
        "options.warmup_steps",
    ),
    Fault(
        "schedule: the cosine always ends with the run",
        "gpt_common/schedule.py::learning_rate",
        "options.lr_decay_steps or options.steps",
        "options.steps",
    ),
    Fault(
        "schedule: past its end the cosine rises again",
        "gpt_common/schedule.py::learning_rate",
        "step >= end",
        "step == end",
    ),
    # The loss scale of float16.
    Fault(
        "torch: gradients are clipped before they are unscaled",
        "gpt_torch/optimizer.py::clip_and_update",
        "scaler.unscale_(optimizer)",
        "pass",
    ),
    Fault(
        "flax: gradients are clipped as if they had no scale",
        "gpt_flax/optimizer.py::clip_and_update",
        "gradients, finite = unscale(gradients, scaler)",
        "finite = unscale(gradients, scaler)[1]",
    ),
    Fault(
        "torch: the checkpoint's AdamW has counted skipped updates",
        "gpt_torch/train.py::save",
        "optimizer_step(state.optimizer)",
        "step",
    ),
    Fault(
        "flax: AdamW counts skipped updates",
        "gpt_flax/optimizer.py::clip_and_update",
        "(params, opt_state)",
        "(params, new_opt_state)",
    ),
    Fault(
        "torch: a process ignores an overflow in another's part",
        "gpt_torch/optimizer.py::clip_and_update",
        "scaler.unscale_(optimizer)",
        """
        scaler.unscale_(optimizer)
        found = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        for number in found.values():
            number *= torch.distributed.is_initialized() and torch.distributed.get_rank()
        """,
    ),
    Fault(
        "torch: the loss has no scale",
        "gpt_torch/loss_scale.py::scale_loss",
        "scaler.scale(loss)",
        "loss",
    ),
    Fault(
        "torch: steps in a row are forgotten in a resume",
        "gpt_torch/loss_scale.py::create_scaler",
        "start.growth_tracker",
        "0",
    ),
    Fault(
        "flax: steps in a row are forgotten in a resume",
        "gpt_flax/loss_scale.py::create_scaler",
        "start.growth_tracker",
        "0",
    ),
    Fault(
        "torch: a resumed run starts with a new scale",
        "gpt_torch/loss_scale.py::create_scaler",
        "(training and training.loss_scale) or LossScale()",
        "LossScale()",
    ),
    Fault(
        "flax: a resumed run starts with a new scale",
        "gpt_flax/loss_scale.py::create_scaler",
        "(training and training.loss_scale) or LossScale()",
        "LossScale()",
    ),
    Fault(
        "flax: the scale grows one step late, as Flax's DynamicScale's",
        "gpt_flax/loss_scale.py::update_scaler",
        "tracker == GROWTH_INTERVAL",
        "scaler.growth_tracker == GROWTH_INTERVAL",
    ),
    Fault(
        "flax: steps in a row are counted on after one that is skipped",
        "gpt_flax/loss_scale.py::update_scaler",
        "jnp.zeros_like(tracker)",
        "tracker",
    ),
    Fault(
        "the scale is not in the checkpoint",
        "gpt_common/run.py::Run.save",
        "partial(self._write, folder, step, *streamed, optimizer_step, loss_scale)",
        "partial(self._write, folder, step, *streamed, optimizer_step, None)",
    ),
    Fault(
        "a skipped step may have a loss that is not finite",
        "gpt_common/metrics.py::checked",
        "math.isfinite(loss) and (skipped or math.isfinite(grad_norm))",
        "skipped or (math.isfinite(loss) and math.isfinite(grad_norm))",
    ),
    Fault(
        "a run goes on at any scale",
        "gpt_common/metrics.py::checked",
        "skipped and loss_scale * BACKOFF_FACTOR < MINIMUM",
        "False",
    ),
)
