"""Details in the language that was asked for; codes in none."""

from __future__ import annotations

from tests.support.http import Api, person

SPANISH = {"Accept-Language": "es-ES, es;q=0.9"}


def test_problems_and_outcomes_speak_spanish_to_who_prefers_it(api: Api) -> None:
    session = api.new_session(capacity=0)
    refused = api.reserve(session, Accept_Language="es")
    assert (refused.json()["code"], refused.json()["detail"]) == ("sold_out", "No quedan plazas.")
    assert refused.headers["Content-Language"] == "es"
    assert refused.json()["job"]["detail"] == "No quedan plazas."
    job = refused.json()["job"]["id"]
    assert api.get(f"/api/jobs/{job}", headers=SPANISH).json()["detail"] == "No quedan plazas."
    assert api.job(job)["detail"] == "All places are taken."
    for answer, words in (
        (api.get("/api/sessions/999999999/", headers=SPANISH), "No hay ninguna sesión"),
        (
            api.post("/api/sessions/", content=b"{", headers={**SPANISH, "Content-Type": "application/json"}),
            "no es JSON válido: ",
        ),
        (
            api.post("/api/sessions/", content=b" " * 20_000, headers={**SPANISH, "Content-Type": "application/json"}),
            "16384 bytes",
        ),
        (api.get("/nowhere", headers=SPANISH), "No encontrado."),
    ):
        assert words in answer.json()["detail"]
        assert "Accept-Language" in answer.headers["Vary"]


def test_english_is_spoken_to_everybody_else(api: Api) -> None:
    session = api.new_session()
    for language in ("en", "fr", "x-klingon", "*", ";;,,="):
        answer = api.reserve(session, person(), Accept_Language=language)
        assert answer.json()["detail"] == "The places are reserved." or answer.json()["detail"] == "All places are taken."
