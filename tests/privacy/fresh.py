"""A third set, written after the detectors were frozen and scored without changing them since.

More of what makes finding hard: values typed carelessly (`careless`), no label where people
give none, labels that nobody thought of. Its figures are the ones to expect of new text.
"""

from __future__ import annotations

from random import Random

from tests.privacy.values import DIGITS, full_width, some

EN: dict[str, tuple[str, ...]] = {
    "email": ("he's {} on teams", "bcc:{}", "<{}>,", "Signed-off-by: Jo <{}>", "[mail]({})"),
    "phone": ("{}", "new mob {}", "voicemail at {}", "Landline {}", "Home: {}", "shop: {} (9-5)"),
    "card": ("{}", "my mastercard's {}", "CARD {}", "expires 09/28, number {}", "paid. {}"),
    "iban": ("{}", "acct {}", "send rent to {} thx"),
    "bank_account": ("my account is {}", "a/c {}", "Acct: {}", "checking account number: {}"),
    "ssn": ("{}", "ss# {}", "soc sec no {}", "her SSN, {}, leaked"),
    "nino": ("{}", "National Insurance {}", "nino={}"),
    "nhs_number": ("nhs: {}", "NHS-number {}", "her NHS number, I think, is {}"),
    "my_number": ("My Number card {}", "MyNumber {}"),
    "corporate_number": ("corporate no {}", "Japan corporate number: {}"),
    "national_id": ("{}",),
    "passport": ("my passport: {}", "PASSPORT NO. {}", "Passport # {}", "pp no {}"),
    "mrz": ("\n{}\n",),
    "licence_gb": ("licence no {}", "{} is on my licence"),
    "licence_jp": ("Licence number (Japan): {}", "driver's licence {}"),
    "ip": ("{}", "dig -x {}", "from={}", "she connected via {}", "{}: connection reset"),
    "address": ("Home: {}", "moved to {}", "Send flowers to {}", "({})"),
    "birth_date": ("born: {}", "DoB is {}", "{} (dob)", "birth date {}", "my date of birth? {}"),
    "api_key": ("leaked: {}", "{},", "key:{}", "<secret>{}</secret>", "token {}", "'{}'"),
    "jwt": ("bearer {}", "\"{}\"", "x={}&y=1"),
    "private_key": ("{}\n\nhelp", "KEY={}"),
    "connection_string": ("uri: mongodb://u:{}@h/db", "sftp://x:{}@host",
     "CELERY=redis://d:{}@r:6379"),
    "password": ("login: bob / password: {}", "pass = {}", "my pin code password: {}",
     "root password is {}.",
                 "password {}", "the new one is {}", "PGPASSWORD={} psql", "userPassword={}"),
    "secret": ("key={}", "apikey: {}", "SECRET={}", "bearer {}", "token is {}", "X-Auth-Token: {}"),
}  # fmt: skip

JA: dict[str, tuple[str, ...]] = {
    "email": ("{}に転送して", "送り先は「{}」", "{}です。よろしくお願いします"),
    "phone": ("{}", "電話→{}", "自宅　{}", "連絡は{}まで", "番号は{}です"),
    "card": ("{}", "カード　{}", "番号{}、名義はタナカ", "クレカの{}"),
    "iban": ("{}", "IBANコード　{}"),
    "bank_account": ("口座 {}", "口座番号→{}", "普通口座{}"),
    "ssn": ("{}", "ソーシャルセキュリティナンバー {}"),
    "nino": ("{}", "国民保険番号{}"),
    "nhs_number": ("NHSナンバー{}",),
    "my_number": ("マイナンバー→{}", "父の個人番号は {} だそうです",
     "番号確認書類：マイナンバー　{}", "{}（マイナンバー）"),
    "corporate_number": ("法人番号→{}", "適格請求書発行事業者の登録番号：{}"),
    "national_id": ("{}",),
    "passport": ("パスポート→{}", "旅券番号　{}"),
    "mrz": ("{}",),
    "licence_gb": ("免許 {}",),
    "licence_jp": ("免許証 {}", "運転免許の番号：{}"),
    "ip": ("{}", "アクセス元 {}", "相手は{}"),
    "address": ("引っ越し先は{}", "住まいは{}です", "会場：{}"),
    "birth_date": ("{}に生まれました", "生年月日→{}", "{} 生", "誕生日が{}の人"),
    "api_key": ("キーは「{}」", "{}を無効化したい"),
    "jwt": ("「{}」",),
    "private_key": ("{}\nこの鍵は有効？",),
    "connection_string": ("接続文字列：postgres://a:{}@h/d",),
    "password": ("PWは{}", "パスワード→{}", "暗証番号代わりのパスワード：{}", "パスワード「{}」",
     "ログインは yamada / {}"),
    "secret": ("キー：{}", "アクセスキー：{}", "シークレットは「{}」", "トークンが {} の場合"),
}  # fmt: skip


def careless(r: Random, value: str, kind: str) -> str:
    """One value in five as it is pasted or typed in a hurry; secrets are always pasted whole."""
    if r.random() >= 0.2 or kind in (
        "api_key",
        "jwt",
        "private_key",
        "connection_string",
        "password",
        "secret",
        "mrz",
    ):
        return value
    return r.choice([
        value.replace(" ", "\u00a0"), value.replace("-", "\u2013"), value.lower(),
        value.replace("-", " "), full_width(value) if "@" not in value else value,
    ])  # fmt: skip


def hard_negatives(r: Random) -> dict[str, str]:
    def d(count: int) -> str:
        return some(r, DIGITS, count)

    return {
        "membership": r.choice([f"Member {d(4)} {d(4)} {d(4)}",
         f"ポイントカード番号 {d(4)}-{d(4)}-{d(4)}", f"Loyalty no. {d(10)}"]),
        "room": r.choice([f"Room {d(3)}-{d(4)}", f"会議室{d(3)}、{d(2)}名",
         f"Gate {d(2)}, seat {d(2)}A"]),
        "statistics": f"n={d(4)}, mean {d(2)}.{d(2)}, "
                      f"95% CI {d(2)}.{d(1)}-{d(2)}.{d(1)}, p=0.0{d(2)}",
        "json numbers": f'{{"id": {d(10)}, "ts": 17{d(11)}, "v": [{d(3)}, {d(3)}, {d(4)}]}}',
        "sql": f"INSERT INTO t VALUES ({d(9)}, '{d(4)}-{d(2)}', {d(12)});",
        "paths": f"/var/lib/{d(8)}/{d(3)}-{d(3)}/{d(10)}.log",
        "chemistry": f"C{d(2)}H{d(2)}O{d(1)}, CAS {d(4)}-{d(2)}-{d(1)}, {d(3)}.{d(2)} g/mol",
        "sports": f"{d(1)}-{d(1)}, {d(1)}-{d(1)}, {d(1)}-{d(1)} ({d(3)} min, att. {d(2)},{d(3)})",
        "stock": f"7203 {d(4)} +{d(2)} (1.{d(2)}%) 出来高 {d(2)},{d(3)},{d(3)}",
        "talk": r.choice(["What makes a good password?", "トークンの有効期限は3600秒です",
         "Which phone has 128 GB?", "カードは5枚ある",
                          "住所録を作るマクロ", "The key is to practise 10000 hours.",
                          "口座を3つ持っている", "My card has 2 chips.",
                          "Explain JWT in 3 lines", "sk-learn or scikit-learn?",
                          "ip address of localhost is 127.0.0.1",
                          "電話会議は10時から11時半", "She is 34, born in Osaka",
                          "password123 is a bad password"]),
    }  # fmt: skip
