# Mixed sharing between SegFormers on Kvasir-SEG for two CPU cores: narrow networks at 96 px, 20
# epochs from scratch.
_base_ = './polyp_unet_mixed_cpu.py'
_b0 = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
_scratch = {
    'backbone.init_cfg': None,
    'decode_head.num_classes': 2,
    'decode_head.norm_cfg.type': 'BN',
    'decode_head.channels': 64,
    'decode_head.init_cfg': dict(type='Normal', std=0.3, override=dict(name='conv_seg')),
}
_student = dict(
    _scratch,
    **{
        'backbone.embed_dims': 16,
        'backbone.num_layers': [1, 1, 1, 1],
        'decode_head.in_channels': [16, 32, 80, 128],
    },
)
model = dict(
    members=dict(
        teacher=dict(config=_b0, options=dict(_scratch, _delete_=True)),
        student1=dict(config=_b0, options=dict(_student, _delete_=True)),
        student2=dict(config=_b0, options=dict(_student, _delete_=True)),
    )
)
