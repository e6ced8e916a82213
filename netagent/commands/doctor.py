"""`doctor` of a running agent: the host, records against kernel, and everything that `status` warns of."""

from __future__ import annotations

from dataclasses import replace

from netagent.commands.examine import diagnose
from netagent.commands.handlers import answers
from netagent.commands.reasons import doctor as doctor_of
from netagent.commands.status import status_of
from netagent.daemon.agent import Agent
from netagent.doctor.checks.cluster_checks import ALONE_CHECKS, CLUSTER_CHECKS, StatusWarning
from netagent.doctor.checks.finding import examine
from netagent.interface import schema
from netagent.interface.questions import DoctorCommand


@answers(DoctorCommand)
async def doctor(agent: Agent, _request: DoctorCommand) -> schema.Doctor:
    """Run all checks. Changes nothing."""
    diagnosis = await diagnose(agent)
    status = await status_of(agent, is_thorough=True)
    checks = CLUSTER_CHECKS if status["cluster"] is not None else ALONE_CHECKS
    warned = [StatusWarning(one["code"], one["message"], one["cure"]) for one in status["warnings"]]
    return doctor_of(replace(diagnosis, cluster=tuple(examine(checks, warned))), agent="answers")
