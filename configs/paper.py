"""2DAL as in the paper: 300W-LP and UMDFaces, ResNet-50, batch 32 + 32, two stages.

    python -m twodal_jax.main --config=configs/paper.py --workdir=runs/paper

Needs a GPU or TPU and the data; the command names what is missing and how to prepare it. Data folders lie in
$TWODAL_DATA_DIR, or in `data/` where that is not set.

Every other config overrides this one. [paper] marks what the paper states, [ours] what it leaves open.
"""

import os

import ml_collections


def data_dir() -> str:
    """Folder of the data: $TWODAL_DATA_DIR, else `data`."""
    return os.environ.get("TWODAL_DATA_DIR", "data")


def data_set(folder: str, **fields) -> ml_collections.ConfigDict:
    """A data set: `folder` is a prepared folder; `fields` override the defaults below.

    source, input, split, seed, pixel_origin: as in scripts/prepare_data.py.
    make: whether a run prepares a missing folder from source and input.
    limit: number of faces to use (0: all).
    count: number of faces that a synthetic source makes.
    how_to_get: where to obtain the data, for the message about missing data.
    """
    defaults = dict(
        source="", input="", split="", pixel_origin=0.0, limit=0, count=0, seed=0, make=False, how_to_get=""
    )
    return ml_collections.ConfigDict(defaults | fields | {"folder": folder})


def get_config() -> ml_collections.ConfigDict:
    """The paper's config."""
    config = ml_collections.ConfigDict()
    config.name = "paper"
    config.seed = 0
    # Several processes as one run: "auto" (those that SLURM, Open MPI or a TPU slice started), "cluster" (those that
    # JAX detects), "alone", or "HOST:PORT,COUNT,INDEX". docs/several-machines.md has the commands.
    config.distributed = "auto"

    # Data. Morphable model: a folder or file that `face_models.load` reads, or "builtin".
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
        # [ours: 18 of the 21 points that come with UMDFaces; paper: 18 points of its reference [28], the detector
        # face-alignment. A set prepared with --detect=face-alignment, or with --landmarks=FILE of a detector, has
        # those]
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
    # [ours] Number of annotated faces that are not trained on, the same for every seed; their error chooses `best/`. A
    # photo is held out with all its poses and flips. At most a tenth of the faces, rounded up. 0: there is no `best/`,
    # and the last state is the result. The evaluation set is the test set: it chooses nothing. Validation uses detected
    # landmarks where the annotated set has them (--detect=face-alignment), else an empty heatmap.
    config.validation_faces = 4000
    config.batch_annotated = 32  # [paper]
    config.batch_wild = 32  # [paper: "the batch size is set as 32"]
    # [ours] How often a face with a yaw of 0-30, 30-60, 60-90 degrees occurs in an epoch.
    config.yaw_oversampling_annotated = (1, 1, 1)
    config.yaw_oversampling_wild = (1, 1, 1)
    # [ours] Further factor for annotated photos beside their turned copies (`prepare_data profile`).
    config.photo_oversampling = 1
    # For devices with too little memory for their part of the batch. `accumulate` = k processes k parts in turn and
    # averages their gradients; BatchNorm sees one part at a time. `regressor.remat` changes no result.
    config.accumulate = 1

    # Networks.
    config.regressor = ml_collections.ConfigDict()
    config.regressor.name = "resnet50"  # [paper]
    config.regressor.variant = "authors"  # [ours: as the authors' code; the paper says ResNet-50]
    config.regressor.width = 1.0
    config.regressor.heatmap_mlp_width = 0  # [ours] width of dense layers from the heatmap to the head; 0: none
    # [ours] True: an untrained network predicts the mean face for every image. False: as the authors' code.
    config.regressor.zero_head = False
    # [ours: off; the authors started from ImageNet] A file of torchvision's or timm's weights for this network,
    # .pth or .safetensors, from which a new run starts: `checkpointing.pretrained`.
    config.regressor.pretrained = ""
    config.regressor.dtype = "float32"
    config.regressor.remat = False  # recompute residual blocks instead of storing them: docs/several-machines.md
    config.critic = ml_collections.ConfigDict()
    config.critic.width = 1.0  # [ours: encoder 32 to 256 features; critic 512, 1024, 1024, 1: paper]
    config.critic.downsample_input = False  # [ours] True: the encoder sees 60 pixels, for small machines
    config.critic.learning_rate = 1e-4  # [paper] Adam
    # [paper] "alternately": the critic's step, then the regressor's against the new critic. False: both steps use the
    # other network as it was before.
    config.critic.alternate = True
    # [ours] Weaken the critic, which otherwise separates all faces soon, so that L_sc has no gradient; 0 and 0: the
    # paper's.
    config.critic.label_smoothing = 0.1  # `losses.loss_sc_critic`
    config.critic.coefficient_noise = 0.5  # standard deviation of noise on the critic's whitened coefficients
    # [ours] Ratio of the side of the training crops to that of the exact box of the landmarks; scripts.reconstruct uses
    # the same ratio.
    config.crop_looseness = 1.0
    config.heatmap = ml_collections.ConfigDict()
    config.heatmap.kind = "gaussian"  # [paper]; "points" is the authors' code
    config.heatmap.sigma = 2.0  # [paper]
    config.heatmap.enabled = True  # [paper]; False: the ablation's variants with the image alone

    # [ours] True: a prediction is the mean of those for the crop and for its mirror image, at twice the cost.
    config.mirror_prediction = False

    # Switches of the ablation.
    config.self_supervision = True  # [paper] L_2d-con, L_3d-con, L_cyc
    config.self_critic = True  # [paper] L_sc
    # [ours] True: learn the 3D offsets of the wild faces' landmarks from the mesh's, because conventions differ.
    config.learn_landmark_offsets = False
    config.landmark_mask = (4.0, 2.0, 1.0)  # [paper] red : pink : yellow; also (1, 1, 1), (2, 1, 0)
    # [ours] Weight, as in the mask, of both ears and the chin: the three points of AFLW's and UMDFaces' 21 that are not
    # among the 18 landmarks, and the only ones of wild faces at the jaw. 0: not used, as in the paper.
    config.jaw_weight = 0.0
    # [ours] True: all wild faces have the same weight. In the paper's sum a profile has half the weight, because half
    # of its landmarks are visible.
    config.normalize_by_visibility = False
    # [ours] Unit of the losses of landmarks and vertices (`losses.unit_scale`): "pixel" or "side" of the crop, "sum"
    # over landmarks or their weighted "mean". The paper names none. With pixels and sums its lambda 3 = 1 gives L_cyc a
    # thousand times the gradient of L_3d, and the run diverges within ten steps.
    config.loss_unit = "side"
    config.loss_reduction = "mean"
    # Dimensions of the landmarks that weight the coefficients in L_3d. [ours] The paper says 2D landmarks, which leaves
    # the third row of the pose untrained in stage 1; its reference [69] implements 3.
    config.loss_3d_dims = 3
    # Whether L_3d and VDC train t_z. [ours, as [69]'s implementation] No image shows it.
    config.train_depth_offset = False

    # Optimiser of the regressor. [paper: SGD, 5e-5, exponential decay; the rest ours]
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # [paper]; "adam" for short schedules, "muon" for shorter ones
    config.optimizer.decay = "exponential"  # [paper]; or "linear"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 5e-4
    # [ours] Gradient norms are 4 to 15 in ResNet-50, 1 to 2 in ResNet-18 of width 0.25: clipped, one rate serves both.
    config.optimizer.clip_norm = 1.0
    config.optimizer.warmup_steps = 50  # [ours]
    # [ours] For training from scratch; the authors started from ImageNet. rate_scale multiplies all learning rates
    # below. head_features divides the head's rate by the number of its inputs over this number (`training.builder`). 1
    # and 0: the paper's setting. ResNet-50 from scratch, 8 + 8 real faces, 300 steps, one seed: from 25.2 to 18.7 %.
    config.optimizer.rate_scale = 1000.0
    config.optimizer.head_features = 16
    config.optimizer.muon_precision = "default"  # of Muon's matrix products, or "highest"

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
    config.stage2.learning_rate = 2e-5  # [ours] with 5e-5 VDC rises for twenty steps before it falls
    config.stage2.final_learning_rate = 2e-6  # [ours]
    config.stage2.loss_weights.update(dict.fromkeys(config.stage2.loss_weights, 0.0))
    config.stage2.loss_weights.loss_vdc = 1.0  # [paper] stage 2 is fine-tuning with VDC

    # [ours] Augmentation, on the device: `training.augmentation`.
    config.augmentation = ml_collections.ConfigDict()
    config.augmentation.rotation_degrees = 20.0
    config.augmentation.scale = 0.12
    config.augmentation.shift_pixels = 5.0
    config.augmentation.mirror = 0.5
    config.augmentation.mirror_annotated = 0.0  # 300W-LP includes flips
    config.augmentation.brightness = 0.15
    config.augmentation.contrast = 0.3
    config.augmentation.saturation = 0.4
    config.augmentation.grey = 0.1
    config.augmentation.blur = 0.2
    config.augmentation.noise = 0.03
    config.augmentation.occlusion = 0.2
    config.augmentation.margin = 20  # as scripts.prepare_data stores it; see `training.augmentation`
    config.augmentation.landmark_jitter = 1.5
    config.augmentation.landmark_dropout = 0.05
    config.augmentation.heatmap_dropout = 0.0  # [paper] always shown; [ours] 0.4 also trains for the image alone

    # Logs, checkpoints and timeouts; may change when a run is resumed.
    config.run = ml_collections.ConfigDict()
    config.run.log_every = 100
    config.run.evaluate_every = 2000
    config.run.checkpoint_every = 2000
    config.run.keep_checkpoints = 2  # with 1, no checkpoint is left where the newest is damaged
    # Where a checkpoint or the log cannot be written (a full disk): "stop" ends the run; "continue" reports it, trains
    # on and tries again at the next one. The last state must always be saved.
    config.run.on_failed_save = "stop"
    config.run.max_skipped_in_a_row = 10
    config.run.evaluation_batch = 64
    config.run.report_faces = 12
    config.run.grace_seconds = 20  # from SIGTERM to the end of the process where no step ends: `runtime.preemption`
    config.run.start_seconds = 60  # timeout of a group's processes for one another at the start
    config.run.heartbeat_seconds = 10  # time without a sign of a process after which the others exit
    config.run.stop_after = 0  # exit after this step as if stopped by a signal (0: never)
    return config
