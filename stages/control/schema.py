"""The control file as written: its sections.

`common_config`, `mtp_config` and `multistage_config` have LightPFP's words; the other sections are
this program's own. What the keys mean together is decided in stages/control/resolve.py.
"""

from __future__ import annotations

from pydantic import Field

from stages.control.sections.data import DataConfig
from stages.control.sections.keys import Section
from stages.control.sections.learn import Learn
from stages.control.sections.lightpfp import CommonConfig, MtpConfig, MultistageConfig
from stages.control.sections.options import StageOptions
from stages.control.sections.run import RunConfig
from stages.control.sections.tasks import Tasks


class ControlFile(Section):
    """A control file: how `mtp-train` trains a potential."""

    common_config: CommonConfig = Field(CommonConfig(), description="The whole run.")
    mtp_config: MtpConfig = Field(MtpConfig(), description="The potential.")
    multistage_config: MultistageConfig = Field(MultistageConfig(), description="The stages.")
    data_config: DataConfig = Field(DataConfig(), description="The data.")
    run_config: RunConfig = Field(RunConfig(), description="Seed, precision, resources.")
    tasks: Tasks = Field(Tasks(), description="Heads on one descriptor.")
    stage_options: StageOptions = Field(StageOptions(), description="More about each stage.")
    learn: Learn = Field(Learn(), description="Active learning.")
