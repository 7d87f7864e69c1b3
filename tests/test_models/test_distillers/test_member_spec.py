from mmengine.config import Config

from mmkd.models.distillers import member_spec


def test_the_config_of_a_package_is_read_once_and_not_shared(toolkit, monkeypatch):
    read, fromfile = [], Config.fromfile
    monkeypatch.setattr(Config, 'fromfile', lambda path: read.append(path) or fromfile(path))
    member_spec._package_config.cache_clear()
    one = member_spec.MemberSpec('one', toolkit.RTMDET)
    one.config.backbone.type = 'Changed'
    other = member_spec.MemberSpec('other', toolkit.RTMDET, options={'bbox_head.num_classes': 1})
    again = member_spec.MemberSpec('again', toolkit.RTMDET)
    assert len(read) == 1
    assert other.config.backbone.type == again.config.backbone.type == 'CSPNeXt'
    assert (other.config.bbox_head.num_classes, again.config.bbox_head.num_classes) == (1, 80)
