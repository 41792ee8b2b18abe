"""Personal data by form and checksum, by presidio's pattern recognisers; no model, no network."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import tldextract
from presidio_analyzer import predefined_recognizers as presidio

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.adapters.steps.replacing import replaced
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import USUAL_KINDS, PersonalData, PersonalDataAction, PersonalDataKind

_MIN_SCORE = 0.4
_domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
"""With the list of domains that the package brings: the default would ask the network, and differ from day to day."""


class _OfflineEmails(presidio.EmailRecognizer):
    def validate_result(self, pattern_text: str) -> bool:
        """Whether the domain ends as domains do."""
        return bool(_domains(pattern_text).top_domain_under_public_suffix)


_SEVEN_DIGITS = re.compile(r"(?:\d[\s().\-/\u2010-\u2015]{0,3}){7}")
_SIX_DIGITS, _FOUR_DIGITS = re.compile(r"\d{6}"), re.compile(r"\d{4}")
_NUMBER = re.compile(r"\d(?:[ .:_+-]?\d){6}")
_LETTERS_AND_DIGITS = re.compile(r"[0-9A-Za-z]{9}")
# Numbers of single countries. Some are shaped alike, and have the same check digits now and then: the earlier one wins.
_OF_COUNTRIES: tuple[tuple[PersonalDataKind, Any, re.Pattern[str]], ...] = (
    (PersonalDataKind.US_ABA_ROUTING, presidio.AbaRoutingRecognizer, _NUMBER),
    (PersonalDataKind.US_MEDICAL_LICENSE, presidio.MedicalLicenseRecognizer, _NUMBER),
    (PersonalDataKind.US_NPI, presidio.UsNpiRecognizer, _NUMBER),
    (PersonalDataKind.CA_SIN, presidio.CaSinRecognizer, _NUMBER),
    (PersonalDataKind.UK_NHS, presidio.NhsRecognizer, _NUMBER),
    (PersonalDataKind.ES_NIF, presidio.EsNifRecognizer, _NUMBER),
    (PersonalDataKind.ES_NIE, presidio.EsNieRecognizer, _NUMBER),
    (PersonalDataKind.IT_FISCAL_CODE, presidio.ItFiscalCodeRecognizer, _LETTERS_AND_DIGITS),
    (PersonalDataKind.IT_VAT_CODE, presidio.ItVatCodeRecognizer, _NUMBER),
    (PersonalDataKind.PL_PESEL, presidio.PlPeselRecognizer, _NUMBER),
    (PersonalDataKind.DE_TAX_ID, presidio.DeTaxIdRecognizer, _NUMBER),
    (PersonalDataKind.DE_SOCIAL_SECURITY, presidio.DeSocialSecurityRecognizer, _NUMBER),
    (PersonalDataKind.DE_HEALTH_INSURANCE, presidio.DeHealthInsuranceRecognizer, _NUMBER),
    (PersonalDataKind.DE_PASSPORT, presidio.DePassportRecognizer, _LETTERS_AND_DIGITS),
    (PersonalDataKind.DE_ID_CARD, presidio.DeIdCardRecognizer, _LETTERS_AND_DIGITS),
    (PersonalDataKind.DE_LANR, presidio.DeLanrRecognizer, _NUMBER),
    (PersonalDataKind.FI_PERSONAL_IDENTITY_CODE, presidio.FiPersonalIdentityCodeRecognizer, _SIX_DIGITS),
    (PersonalDataKind.SE_PERSONNUMMER, presidio.SePersonnummerRecognizer, _NUMBER),
    (PersonalDataKind.SE_ORGANISATIONSNUMMER, presidio.SeOrganisationsnummerRecognizer, _NUMBER),
    (PersonalDataKind.TR_NATIONAL_ID, presidio.TrNationalIdRecognizer, _NUMBER),
    (PersonalDataKind.AU_ABN, presidio.AuAbnRecognizer, _NUMBER),
    (PersonalDataKind.AU_ACN, presidio.AuAcnRecognizer, _NUMBER),
    (PersonalDataKind.AU_TFN, presidio.AuTfnRecognizer, _NUMBER),
    (PersonalDataKind.AU_MEDICARE, presidio.AuMedicareRecognizer, _NUMBER),
    (PersonalDataKind.IN_AADHAAR, presidio.InAadhaarRecognizer, _NUMBER),
    (PersonalDataKind.SG_UEN, presidio.SgUenRecognizer, _FOUR_DIGITS),
    (PersonalDataKind.KR_RRN, presidio.KrRrnRecognizer, _NUMBER),
    (PersonalDataKind.KR_BRN, presidio.KrBrnRecognizer, _NUMBER),
    (PersonalDataKind.TH_TNIN, presidio.ThTninRecognizer, _NUMBER),
    (PersonalDataKind.NG_NIN, presidio.NgNinRecognizer, _NUMBER),
    (PersonalDataKind.ZA_ID_NUMBER, presidio.ZaIdNumberRecognizer, _NUMBER),
)
# In the order in which they win where two overlap: what has a checksum or an unmistakable form first. A kind is looked
# for only in texts with what every one of it has, which spares nearly all texts the slower search.
_KINDS: tuple[tuple[PersonalDataKind, Any, re.Pattern[str]], ...] = (
    (PersonalDataKind.EMAIL_ADDRESS, _OfflineEmails, re.compile("@")),
    (PersonalDataKind.IBAN, presidio.IbanRecognizer, re.compile(r"[A-Za-z]{2}[ -]?\d[ -]?\d")),
    (PersonalDataKind.CREDIT_CARD, presidio.CreditCardRecognizer, re.compile(r"(?:\d[ -]?){12}")),
    (PersonalDataKind.CRYPTO_WALLET, presidio.CryptoRecognizer, re.compile(r"(?:bc1|[13])[A-Za-z0-9]{24}")),
    (PersonalDataKind.IP_ADDRESS, presidio.IpRecognizer, re.compile(r"\d\.\d{1,3}\.\d|:[0-9A-Fa-f]*:")),
    *_OF_COUNTRIES,
    (PersonalDataKind.US_SSN, presidio.UsSsnRecognizer, re.compile(r"\d{3}[- .]\d{2}[- .]\d{4}")),
    (PersonalDataKind.PHONE_NUMBER, presidio.PhoneRecognizer, _SEVEN_DIGITS),
)


class PersonalDataStep(BaseStep):
    """Masks, hashes, drops or refuses personal data."""

    name = "personal_data"

    def __init__(self, step: PersonalData) -> None:
        super().__init__()
        self._part, self._actions = step.part, step.actions()
        # Kinds that stay are looked for too: an address that stays must not be taken for a telephone number.
        self._kinds = [(kind, recogniser(), sign) for kind, recogniser, sign in _KINDS if kind in self._actions]

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        return draft.changed(self._part, self._treated)

    def _treated(self, text: str) -> str:
        spans = self._spans(text)
        if not spans:
            return text
        for _, _, kind in spans:
            self.found[kind.value] += 1
        refused = sorted({kind.value for _, _, kind in spans if self._actions[kind] is PersonalDataAction.REFUSE})
        if refused:
            raise RowRefused(RefusalReason.PERSONAL_DATA, f"holds {', '.join(refused)}, which the recipe refuses")
        for start, end, kind in sorted(spans, reverse=True):
            text = text[:start] + replaced(text[start:end], kind.value, self._actions[kind]) + text[end:]
        return text

    def _spans(self, text: str) -> list[tuple[int, int, PersonalDataKind]]:
        """What was found, without overlaps."""
        spans: list[tuple[int, int, PersonalDataKind]] = []
        for kind, recogniser, sign in self._kinds:
            if not sign.search(text):
                continue
            found = recogniser.analyze(text, recogniser.supported_entities, None)
            for result in sorted(found, key=lambda result: (result.start - result.end, result.start)):
                start, end = result.start, result.end
                if result.score < _MIN_SCORE or any(start < other[1] and other[0] < end for other in spans):
                    continue
                if kind is PersonalDataKind.IP_ADDRESS and not _is_somebodys(text[start:end]):
                    continue
                if kind not in USUAL_KINDS and _is_part(text, start, end):
                    continue
                spans.append((start, end, kind))
        return [span for span in spans if self._actions[span[2]] is not PersonalDataAction.KEEP]


def _is_somebodys(value: str) -> bool:
    """Whether an address may lead to a person: `::1`, `0.0.0.0` and the likes of `a::b` in code do not."""
    if not any(map(str.isdigit, value)):
        return False
    try:
        address = ipaddress.ip_address(value.split("%")[0].split("/")[0])
    except ValueError:
        return True
    return not (address.is_loopback or address.is_unspecified)


def _is_part(text: str, start: int, end: int) -> bool:
    """Whether it is a piece of a longer word or number, whose check digit is right by chance."""
    return text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()
