"""Credentials in URLs are never shown or kept."""

from __future__ import annotations

import pytest

from poisons.durable import StoreError
from trainers import InputError
from trainers.redaction import has_credentials, redacted, redacted_data

SECRET = "hunter2-PASSWORD"
HOLDING = [
    (f"http://user:{SECRET}@127.0.0.1:1/x", "http://***@127.0.0.1:1/x"),
    (f"https://{SECRET}@host/x", "https://***@host/x"),
    (f"http://:{SECRET}@host", "http://***@host"),
    (f"s3://key:{SECRET}@bucket/prefix", "s3://key:***@bucket/prefix"),
    (f"postgresql://u:{SECRET}@h/db", "postgresql://u:***@h/db"),
    (f"postgresql://u:a@{SECRET}@h/db", "postgresql://u:***@h/db"),
    (f"postgresql://u:1/{SECRET}@h/db", "postgresql://u:***@h/db"),
    (f"postgresql+psycopg2://h/db?user=u&password={SECRET}", "postgresql+psycopg2://h/db?user=u&password=***"),
    (f"postgresql://h/db?user=u&pass%77ord={SECRET}&sslmode=x", "postgresql://h/db?user=u&pass%77ord=***&sslmode=x"),
    (f"https://h/a?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&X-Amz-Date=1", "https://h/a?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Date=1"),
    (f"https://h/a?X-Amz-Security-Token={SECRET}#f", "https://h/a?X-Amz-Security-Token=***#f"),
    (f"https://h/a?X-Goog-Signature={SECRET}", "https://h/a?X-Goog-Signature=***"),
    (f"https://h/a?AWSAccessKeyId={SECRET}&Signature={SECRET}&Expires=1", "https://h/a?AWSAccessKeyId=***&Signature=***&Expires=1"),
    (f"https://a.blob.core.windows.net/c?sv=1&sig={SECRET}", "https://a.blob.core.windows.net/c?sv=1&sig=***"),
    (f"https://h/a?key={SECRET}&X-Api-Key={SECRET}&subscription-key={SECRET}", "https://h/a?key=***&X-Api-Key=***&subscription-key=***"),
    (f"https://h/a?Policy={SECRET}&Key-Pair-Id={SECRET}&auth={SECRET}&pass={SECRET}", "https://h/a?Policy=***&Key-Pair-Id=***&auth=***&pass=***"),
    (f"https://h/a?access_token={SECRET}&api_key={SECRET}", "https://h/a?access_token=***&api_key=***"),
    (f"cannot read 'http://u:{SECRET}@h/x' now", "cannot read 'http://***@h/x' now"),
    (f"one http://h:80/x, two http://u:{SECRET}@h", "one http://h:80/x, two http://***@h"),
    (f"http://h:80/x,http://u:{SECRET}@h", "http://h:80/x,http://***@h"),
    (f"Max retries exceeded with url: /a.parquet?Signature={SECRET} (Caused by", "Max retries exceeded with url: /a.parquet?Signature=*** (Caused by"),
    (f"host=h password={SECRET} dbname=x", "host=h password=*** dbname=x"),
    (f"host=h password='{SECRET} 2'", "host=h password=***"),
    (f"AccountName=a;AccountKey={SECRET};", "AccountName=a;AccountKey=***;"),
    (f"AWS_SECRET_ACCESS_KEY={SECRET}", "AWS_SECRET_ACCESS_KEY=***"),
    (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
]  # fmt: skip
HARMLESS = [
    "s3://bucket/prefix",
    "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning",
    "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=trials",
    "https://example.org/x?author=me&max_tokens=5&page=2&monkey=1&passes=3",
    "http://host:5000/a@b",
    "abfs://container@account.dfs.core.windows.net/path",
    "ssh://git@host/path",
    "sqlite:////home/me/mlflow.db",
    "postgresql://user@host:5432/db",
    "/home/me/a@b:c/x?y=1",
    "train.epochs=2; data.poison.eps=8/255",
    "data.poison=em, seed=1: gradients may be masked",
    "",
]


@pytest.mark.parametrize(("text", "shown"), HOLDING)
def test_credentials_are_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert has_credentials(text)
    assert SECRET not in str(InputError(text)) + str(StoreError(text)) + repr(redacted_data({"a": [text]}))


@pytest.mark.parametrize("text", HARMLESS)
def test_text_without_credentials_is_unchanged(text: str) -> None:
    assert redacted(text) == text
    assert not has_credentials(text)


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "://" * 10**5, "://:" * 10**5, "?" * 10**6, "&a" * 10**5, "password" * 10**5]
)
def test_it_takes_time_in_proportion_to_the_text(text: str) -> None:
    assert redacted(text) == text
