"""The profiles: how large a run is, from two CPU cores to a GPU."""

PROFILES = {
    # The whole curriculum in minutes on two CPU cores, offline, trained from scratch.
    "quick": dict(
        dataset="rendered",
        image_size=64,
        embedding_size=128,
        epochs=10,
        batch_size=48,
        learning_rate=5e-3,
        frozen_share=0.0,
        augmentation=0.5,  # a short training from scratch has no time for much variety
        seeds=1,
        pretrained=False,
    ),
    # Real pictures and a pretrained backbone, still bearable on a CPU.
    "standard": dict(
        dataset="flowers102",
        image_size=160,
        embedding_size=128,
        epochs=4,
        batch_size=32,
        learning_rate=1e-3,
        frozen_share=0.5,
        augmentation=1.0,
        seeds=3,
        pretrained=True,
    ),
    # The predecessor's scale, for a GPU.
    "full": dict(
        dataset="flowers102",
        image_size=224,
        embedding_size=128,
        epochs=20,
        batch_size=64,
        learning_rate=5e-4,
        frozen_share=0.0,
        augmentation=1.0,
        seeds=3,
        pretrained=True,
    ),
}
