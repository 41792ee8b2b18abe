"""`mainspring.training.v1.StudyService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from mainspring.training.v1 import study_service_pb2 as pb
from mainspring.training.v1 import study_service_pb2_grpc as pb_grpc
from mainspring_svckit.database import Listener
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import ProjectName, StudyName, TuningRecipeName
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.application.studies import Studies
from mainspring_trainer.domain.studies import STUDY_STATES, Study
from mainspring_trainer.transport import studies as mapping

NAME = "mainspring.training.v1.StudyService"


class StudyServicer(pb_grpc.StudyServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, studies: Studies, listener: Listener) -> None:
        self._ports, self._studies, self._listener = ports, studies, listener
        self._reader = Reader(ports.transactions)

    async def CreateStudy(self, request: pb.CreateStudyRequest, context: Any) -> pb.CreateStudyResponse:
        project = ProjectName.parse(request.parent, "parent").project
        recipe_name = request.study.tuning_recipe
        if TuningRecipeName.parse(recipe_name, "study.tuning_recipe").project != project:
            message = f"study.tuning_recipe must be of {request.parent}; name one of that project"
            raise InvalidInput(message, reason="PROJECT_DIFFERS")
        name = str(StudyName(project, self._ports.new_id()))
        asked = mapping.study_from_proto(request.study, name, self._ports.clock.now())
        recipe = (await self._reader.get(self._ports.recipes, "TuningRecipe", recipe_name)).value
        asked = replace(asked, recipe=recipe)
        asked.check()
        mapping.check_recipes(asked)
        study = await self._studies.create(asked, recipe_name)
        return pb.CreateStudyResponse(study=mapping.study_to_proto(study))

    async def GetStudy(self, request: pb.GetStudyRequest, context: Any) -> pb.GetStudyResponse:
        found = await self._reader.get(self._ports.studies, "Study", request.name)
        return pb.GetStudyResponse(study=mapping.study_to_proto(found.value))

    async def ListStudies(self, request: pb.ListStudiesRequest, context: Any) -> pb.ListStudiesResponse:
        listed, token = await self._reader.list(self._ports.studies, request)
        return pb.ListStudiesResponse(
            studies=[mapping.study_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def ListStudyTrials(self, request: pb.ListStudyTrialsRequest, context: Any) -> pb.ListStudyTrialsResponse:
        await self._reader.get(self._ports.studies, "Study", request.parent)
        listed, token = await self._reader.list(self._ports.trials, request)
        return pb.ListStudyTrialsResponse(
            study_trials=[mapping.trial_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def CancelStudy(self, request: pb.CancelStudyRequest, context: Any) -> pb.CancelStudyResponse:
        study = await self._studies.cancel(request.name)
        return pb.CancelStudyResponse(study=mapping.study_to_proto(study))

    async def WatchStudy(self, request: pb.WatchStudyRequest, context: Any) -> AsyncIterator[pb.WatchStudyResponse]:
        async def read() -> Study:
            return (await self._reader.get(self._ports.studies, "Study", request.name)).value

        async for study in follow(self._listener, request.name, read, lambda study: STUDY_STATES.ended(study.state)):
            yield pb.WatchStudyResponse(study=mapping.study_to_proto(study))
