"""2DAL as in the paper: 300W-LP and UMDFaces, ResNet-50, batch 32 + 32, two stages.

    python -m twodal_jax.main --config=configs/paper.py --workdir=runs/paper

Needs a GPU or TPU and the data (the command says what is missing and how to prepare it). Folders are
looked for in $TWODAL_DATA_DIR, or in `data/` where that is not set.

Every other config overrides this one. [paper] marks what the paper states; [ours] what it leaves open.
"""

import os

import ml_collections


def data_dir() -> str:
    return os.environ.get("TWODAL_DATA_DIR", "data")


def data_set(folder: str, **fields) -> ml_collections.ConfigDict:
    """One data set.

    folder: a prepared folder (scripts/prepare_data.py); made from source and input where it is missing
      and `make` is set. source, input, split, seed: as scripts/prepare_data.py takes them.
    pixel_origin: as scripts/prepare_data.py takes it, for wild_csv.
    limit: use only so many faces (0: all). count: how many a synthetic source makes.
    how_to_get: for people without the data: where it comes from.
    """
    defaults = dict(
        source="", input="", split="", pixel_origin=0.0, limit=0, count=0, seed=0, make=False, how_to_get=""
    )
    return ml_collections.ConfigDict(defaults | fields | {"folder": folder})


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "paper"
    config.seed = 0
    # Several processes as one run: "auto" where SLURM, Open MPI or a TPU slice started them, "cluster" (JAX
    # finds them), "alone", or "HOST:PORT,COUNT,INDEX". docs/several-machines.md has the commands.
    config.distributed = "auto"

    # Data. Morphable model: a folder or file `twodal_jax.face_models.load` reads, or "builtin".
    data = data_dir()
    config.morphable_model = f"{data}/bfm_3ddfa"  # [paper] BFM 40 + FaceWarehouse 10
    config.data = ml_collections.ConfigDict()
    config.data.annotated = data_set(
        f"{data}/prepared/300w_lp",
        source="mat",
        input=f"{data}/300W-LP",
        how_to_get="300W-LP: from the 3DDFA project of its authors (Zhu et al., CVPR 2016). With"
        " --detect=face-alignment the validation faces have a detector's landmarks",
    )
    config.data.wild = data_set(
        f"{data}/prepared/umdfaces",
        source="umdfaces",
        input=f"{data}/UMDFaces",
        # [ours: 18 of the 21 points that come with UMDFaces; paper: 18 that its reference [28], face-alignment, finds.
        # A set prepared with --detect=face-alignment, or with --landmarks=FILE of a detector, has those]
        how_to_get="UMDFaces: no longer handed out officially; bring a copy (umdfaces_batch1, 2, 3). The command below"
        " takes its own points; for a detector's, as in the paper, add --detect=face-alignment",
    )
    config.data.evaluation = data_set(
        f"{data}/prepared/aflw2000",
        source="mat",
        input=f"{data}/AFLW2000",
        how_to_get="AFLW2000-3D: from the 3DDFA project of its authors (Zhu et al., CVPR 2016). The paper's protocol"
        " shows detected landmarks: add --detect=face-alignment to the command below",
    )
    # [ours] So many annotated faces are never trained on, whatever the seed; their error chooses `best/`. Photos are
    # taken whole, with all their poses and flips; at most a tenth of the faces, rounded up. 0: no `best/`, and the
    # last state is the result. The evaluation set is the test set: it chooses nothing. Validation is with detected
    # landmarks where the annotated set has them (--detect=face-alignment), else with an empty heatmap.
    config.validation_faces = 4000
    config.batch_annotated = 32  # [paper]
    config.batch_wild = 32  # [paper: "the batch size is set as 32"]
    # [ours] How often a face turned by 0-30, 30-60, 60-90 degrees comes in an epoch.
    config.yaw_oversampling_annotated = (1, 1, 1)
    config.yaw_oversampling_wild = (1, 1, 1)
    # For devices too small for their part of the batch. `accumulate` = k works on k parts in turn and
    # averages their gradients; BatchNorm sees one part at a time. `resnet.remat` changes no result.
    config.accumulate = 1

    # Networks.
    config.regressor = ml_collections.ConfigDict()
    config.regressor.name = "resnet50"  # [paper]
    config.regressor.variant = "authors"  # [ours: as the authors' code; the paper says ResNet-50]
    config.regressor.width = 1.0
    config.regressor.heatmap_mlp_width = 0  # [ours] a dense way from the heatmap to the head; 0: none
    config.regressor.zero_head = (
        False  # [ours] True starts every face as the mean face, False as the authors' code does
    )
    # [ours: off; the authors started from ImageNet] A file of torchvision's or timm's weights for this network,
    # .pth or .safetensors, that a new run starts from: `twodal_jax.checkpointing.pretrained`.
    config.regressor.pretrained = ""
    config.regressor.dtype = "float32"
    config.regressor.remat = False  # compute residual blocks again, not keep them: docs/several-machines.md
    config.critic = ml_collections.ConfigDict()
    config.critic.width = 1.0  # [ours: encoder 32 to 256 features; critic 512, 1024, 1024, 1: paper]
    config.critic.downsample_input = False  # [ours] True: the encoder sees 60 pixels, for small machines
    config.critic.learning_rate = 1e-4  # [paper] Adam
    # [paper] "alternately": the critic's step, then the regressor's against the new critic. False: both see the other
    # as it was before the step.
    config.critic.alternate = True
    # [ours] Against a critic that wins at once, after which L_sc has no gradient; 0 and 0: the paper's.
    config.critic.label_smoothing = 0.1  # `losses.loss_sc_critic`
    config.critic.coefficient_noise = 0.5  # standard deviation, in whitened coefficients, of what the critic sees
    # [ours] Side of training's crops over the exact box of the landmarks; scripts.reconstruct crops alike.
    config.crop_looseness = 1.0
    config.heatmap = ml_collections.ConfigDict()
    config.heatmap.kind = "gaussian"  # [paper]; "points" is the authors' code
    config.heatmap.sigma = 2.0  # [paper]
    config.heatmap.enabled = True  # [paper]; False: the ablation's variants with the image alone

    # The ablation's switches.
    config.self_supervision = True  # [paper] L_2d-con, L_3d-con, L_cyc
    config.self_critic = True  # [paper] L_sc
    # [ours] True learns how far, in 3D, the wild faces' landmarks lie from the mesh's: conventions differ.
    config.learn_landmark_offsets = False
    config.landmark_mask = (4.0, 2.0, 1.0)  # [paper] red : pink : yellow; also (1, 1, 1), (2, 1, 0)
    # [ours] As the mask, for both ears and the chin, which the 18 landmarks leave out of the 21 that AFLW and
    # UMDFaces mark: all that wild faces tell of the jaw. 0: not looked at, as in the paper.
    config.jaw_weight = 0.0
    # [ours] True: wild faces count alike. As the paper sums, a profile counts half: half its landmarks are visible.
    config.normalize_by_visibility = False
    # [ours] Unit of the losses of landmarks and vertices (`losses.unit_scale`): "pixel" of the crop or "side" of the
    # crop, "sum" over landmarks or their weighted "mean". The paper names none. In pixels and sums its lambda 3 = 1
    # gives L_cyc a thousand times the gradient of L_3d, and the run diverges within ten steps.
    config.loss_unit = "side"
    config.loss_reduction = "mean"
    # Dimensions of the landmarks that weigh L_3d's coefficients. [ours] The text says 2D landmarks, which
    # leaves the third row of the pose untrained in stage 1; 3 is what its reference [69] implements.
    config.loss_3d_dims = 3
    # Whether L_3d and VDC train t_z. [ours, as [69]'s implementation] No picture shows it.
    config.train_depth_offset = False

    # Optimiser of the regressor. [paper: SGD, 5e-5, exponential decay; the rest ours]
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # [paper]; "adam" for short schedules, "muon" for shorter ones
    config.optimizer.decay = "exponential"  # [paper]; or "linear"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 5e-4
    config.optimizer.clip_norm = 5.0  # [ours]
    config.optimizer.warmup_steps = 50  # [ours]
    # [ours] From scratch, where the authors started from ImageNet: rate_scale multiplies all learning rates below, and
    # head_features divides the head's by its inputs over this number (`training.builder._scale_head`). 1 and 0: the paper's
    # plain setting. ResNet-50 from scratch, 8 + 8 real faces, 300 steps, one seed, augmented as below: 25.4 % before
    # training, 20.8 % with 100 and 32, 19.5 % with 200 and 16. The plain setting was run for 120 steps only, with more
    # augmentation and a zero head: 25.2 to 23.7 %.
    config.optimizer.rate_scale = 200.0
    config.optimizer.head_features = 16
    config.optimizer.muon_precision = "default"  # of Muon's matrix products; or "highest"

    config.stage1 = ml_collections.ConfigDict()
    config.stage1.steps = 115_000  # [ours] 30 epochs of 300W-LP with its flips (122,450 images)
    config.stage1.learning_rate = 5e-5  # [paper]
    config.stage1.final_learning_rate = 5e-6  # [ours]
    config.stage1.loss_weights = ml_collections.ConfigDict()
    config.stage1.loss_weights.loss_3d = 1.0  # [paper]
    config.stage1.loss_weights.loss_2d_con = 0.005  # [paper] lambda 1
    config.stage1.loss_weights.loss_3d_con = 0.005  # [paper] lambda 2
    config.stage1.loss_weights.loss_cyc = 1.0  # [paper] lambda 3
    config.stage1.loss_weights.loss_sc = 0.005  # [paper] lambda 4
    config.stage1.loss_weights.loss_vdc = 0.0
    config.stage1.loss_weights.loss_pdc = 0.0  # of the baselines in configs/variants.py
    config.stage1.loss_weights.loss_contour = 0.0
    config.stage2 = config.stage1.copy_and_resolve_references()
    config.stage2.steps = 38_000  # [ours] 10 epochs
    config.stage2.learning_rate = 1e-4  # [ours] VDC's gradients, in squared sides of the crop, are small
    config.stage2.final_learning_rate = 1e-5  # [ours]
    config.stage2.loss_weights.update(dict.fromkeys(config.stage2.loss_weights, 0.0))
    config.stage2.loss_weights.loss_vdc = 1.0  # [paper] stage 2 is fine-tuning with VDC

    # Augmentation, on the device: `twodal_jax.training.augmentation`. [ours] all of it.
    config.augmentation = ml_collections.ConfigDict()
    config.augmentation.rotation_degrees = 20.0
    config.augmentation.scale = 0.12
    config.augmentation.shift_pixels = 5.0
    config.augmentation.mirror = 0.5
    config.augmentation.mirror_annotated = 0.0  # 300W-LP brings its flips
    config.augmentation.brightness = 0.15
    config.augmentation.contrast = 0.3
    config.augmentation.saturation = 0.4
    config.augmentation.grey = 0.1
    config.augmentation.blur = 0.2
    config.augmentation.noise = 0.03
    config.augmentation.occlusion = 0.2
    config.augmentation.margin = 20  # as scripts.prepare_data stores it; see `augmentation.AugmentationSettings`
    config.augmentation.landmark_jitter = 1.5
    config.augmentation.landmark_dropout = 0.05
    config.augmentation.heatmap_dropout = 0.0  # [paper] always shown; [ours] 0.4 trains the image alone too

    # How the run is kept and watched; may change when a run is continued.
    config.run = ml_collections.ConfigDict()
    config.run.log_every = 100
    config.run.evaluate_every = 2000
    config.run.checkpoint_every = 2000
    config.run.keep_checkpoints = 2  # with 1 there is none to go back to from a damaged one
    # "stop": leave where a checkpoint or the log cannot be written (a full disk); "continue": say so, go on
    # and try again at the next; the last state must always be saved.
    config.run.on_failed_save = "stop"
    config.run.max_skipped_in_a_row = 10
    config.run.evaluation_batch = 64
    config.run.report_faces = 12
    config.run.grace_seconds = 20  # from SIGTERM to the end of the process where no step ends: `runtime.preemption`
    config.run.start_seconds = 60  # how long the processes of a group wait for one another at the start
    config.run.heartbeat_seconds = 10  # how long one may be silent before the others leave
    config.run.stop_after = 0  # leave after this step as if stopped by a signal (0: never)
    return config
