"""Texts written after the detectors, scored once before anything was changed for them.

Other wording, other forms and other negatives than `templates` and `negatives` have: what the
figures of the first set would be if it had not been at hand while the detectors were made.
"""

from __future__ import annotations

from random import Random

from tests.privacy.values import BASE62, DIGITS, HEX, some

EN: dict[str, tuple[str, ...]] = {
    "email": (
        "pls add {} to the list", "{};{{}}", "(see {})",
        "author = {{name = \"J\", email = \"{}\"}}",
        "Subject: Fw: {}\n\nHi all,", "|{}|admin|", "Reach out ({}) if stuck",
        "git config user.email {}", "SELECT * FROM u WHERE mail='{}'",
    ),
    "phone": (
        "Ring me on {} after six", "My contact number: {}", "Reception is {}.", "ph {}",
        "T: {} | F: none",
        "{} - ask for Sam", "tel:{}", "Please text {} when outside", "Her new number's {}",
        "emergency contact = {}", "| Ann | {} |",
    ),
    "card": (
        "Here's my Amex or whatever: {}", "cc {}", "book it on {} cvc 998", "{},12/27,John Smith",
        "the number on the front is {}", "refund to {}?",
    ),
    "iban": ("{} (Sparkasse)", "wire to account {}, ref 221", "iban={}", "beneficiary\n{}\n"),
    "bank_account": ("Sort code 20-00-00, account {}", "acct #{}", "Account No: {}",
     "savings account number is {}"),
    "ssn": ("Social: {}", "for taxes you need my social, {}", "ssn={}&dob=",
     "John Q Public / {} / single", "Applicant SSN\n{}"),
    "nino": ("my NI is {}", "N.I. no. {}", "Starter checklist, {}, category A"),
    "nhs_number": ("NHS no {}", "Pt's NHS number: {} (verified)", "nhs_number,{}"),
    "my_number": ("his Japanese My Number ({})", "mynumber={}", "Individual Number: {}"),
    "corporate_number": ("Houjin bangou {}", "Corporate No. {}"),
    "national_id": ("{}",),
    "passport": ("travelling on passport {}", "Passport no {} issued in Leeds",
     "passport_number = \"{}\""),
    "mrz": ("OCR of page 2:\n{}\n--", "```\n{}\n```"),
    "licence_gb": ("DVLA number {}", "my licence is {}"),
    "licence_jp": ("driver license no. {} (Osaka)", "Japan DL number: {}"),
    "ip": (
        "Failed password for root from {} port 22 ssh2", "X-Forwarded-For: {}", "banned {}",
        "Peer {}:51820 timed out".replace(":51820", ""), "whois {}", "my ip is {}",
        "{} > 1.1.1.1: ICMP echo request", "allow from {};",
    ),
    "address": ("my place is {}", "deliver to {} before noon", "{}", "Billing:\nJ. Smith\n{}"),
    "birth_date": (
        "d.o.b. {}", "My son's birthday is {}", "Date of Birth {}", "birthdate={}",
        "He was born {}, a Tuesday", "DOB\t{}", "| dob | {} |",
    ),
    "api_key": (
        "{}", "-H \"Authorization: Bearer {}\"", "{} <- is this revoked?",
        "OPENAI_API_KEY={} python x.py", "$env:KEY='{}'", "[default]\nkey = {}\n",
        "https://api.example.com/v1?key={}",
    ),
    "jwt": ("{}", "Set-Cookie: id={}; HttpOnly", "jwt.decode(\"{}\", key)", "?access_token={}"),
    "private_key": ("id_rsa is\n\n{}\n", "  key: |\n{}\n", "\"private_key\": \"{}\","),
    "connection_string": (
        "jdbc:postgresql://svc:{}@pg-1:5432/x",
        "engine = create_engine('postgresql+psycopg2://u1:{}@localhost/db')",
        "ftp://joe:{}@files.example.com/", "SMTP_URL=smtps://no-reply:{}@smtp.example.com:465",
    ),
    "password": (
        "try this password: {}", "pw is {}", "PASS={}", "\"adminPassword\": \"{}\"",
        "sshpass -p {} ssh host", "user=sa;pwd={}", "my passphrase is {}, don't tell",
        "<password>{}</password>", "--password {} --user x", "mysql -u root -p{} db",
    ),
    "secret": (
        "TOKEN={}", "\"apiSecret\" : \"{}\"", "x-api-key: {}", "export HMAC_SECRET=\"{}\"",
        "client_secret={}&grant_type=x", "secretKey: {}", "api key {}", "set_token(\"{}\")",
    ),
}  # fmt: skip

JA: dict[str, tuple[str, ...]] = {
    "email": ("{}宛でお願いします", "アドレスは {} です！", "E-mail／{}", "宛先：山田様<{}>",
     "下記まで。\n{}\n", "メアド：{}"),
    "phone": ("{}に折り返しください", "ケータイ：{}", "☎{}", "お電話（{}）", "電話：{}／FAX：なし",
     "直通{}", "私の番号は{}"),
    "card": ("カードNo.{}", "VISAの{}が不正利用された", "{}、有効期限は来月",
     "決済カード：{}／名義 TARO"),
    "iban": ("送金先IBANは{}", "海外口座（{}）"),
    "bank_account": ("（普通）口座番号{}", "振込先：みずほ銀行 普通 {}", "口座番号は、{}"),
    "ssn": ("アメリカのソーシャルセキュリティ番号は{}", "SSN＝{}"),
    "nino": ("イギリスのNI番号 {}", "{}（NINO）"),
    "nhs_number": ("NHS番号が{}の患者", "NHS No. {}"),
    "my_number": ("マイナは{}", "個人番号は、{}です", "マイナンバー（{}）", "マイナンバー＝{}",
     "個人番号カード：{}", "12桁のマイナンバー{}を入力"),
    "corporate_number": ("インボイス登録番号は{}", "法人番号{}の会社"),
    "national_id": ("{}",),
    "passport": ("パスポートNo.{}", "旅券の番号は{}", "パスポート {} 発行"),
    "mrz": ("MRZ:\n{}",),
    "licence_gb": ("DVLAの{}",),
    "licence_jp": ("免許番号{}", "運転免許証　番号　第{}号", "免許証No.{}"),
    "ip": ("IPは{}", "{}からSSHの試行", "グローバルIP＝{}", "送信元{}、宛先不明"),
    "address": ("{}", "現住所は{}", "配達先：{}", "本社（{}）", "お届け先は{}まで"),
    "birth_date": ("{}生まれです", "生年月日は、{}", "誕生日：{}", "（{}生まれ）", "出生日　{}",
     "生年月日＝{}"),
    "api_key": ("{}", "これ→{}", "トークン：{}です", "APIキー（{}）が漏れた"),
    "jwt": ("JWTは{}です", "{}"),
    "private_key": ("鍵です\n{}\n", "{}を使う"),
    "connection_string": ("DBは mysql://app:{}@db:3306/app です",),
    "password": ("パスワードが{}のまま", "PW：{}", "パスワード→{}", "初期パスワードは {} です。",
     "パス：{}", "password：{}"),
    "secret": ("APIキーは「{}」", "シークレットキー：{}", "アクセストークン={}", "APIキーが{}です"),
}  # fmt: skip


def hard_negatives(r: Random) -> dict[str, str]:
    """One text of each family that the first set does not have."""

    def d(count: int) -> str:
        return some(r, DIGITS, count)

    return {
        "spreadsheet": "\n".join(",".join(d(r.randint(1, 9)) for _ in range(8)) for _ in range(5)),
        "spaced columns": " ".join(d(r.randint(2, 6)) for _ in range(12)),
        "hex dump": " ".join(some(r, HEX, 2) for _ in range(16)),
        "log line": f"2024-0{r.randint(1, 9)}-0{r.randint(1, 9)}T0{d(1)}:1{d(1)}:2{d(1)}.{d(6)}Z "
                    f"INFO worker-{d(2)} took {d(4)} ms, rss {d(9)}",
        "matrix": f"[[{d(1)}.{d(4)}, -{d(1)}.{d(4)}], [{d(2)}.{d(3)}, {d(1)}.{d(8)}]]",
        "telemetry": f"loss={d(1)}.{d(4)} step={d(6)} tok/s={d(5)}.{d(2)} mem={d(11)}",
        "bond": f"US{d(9)}0 yields 4.{d(2)}%",
        "flight": f"NH{d(4)} on 12 May, booking {some(r, 'ABCDEFGHJKLMNPQRSTUVWXYZ23456789', 6)}",
        "lot": r.choice([f"Lot {d(3)}-{d(3)}-{d(4)}", f"S/N {d(3)}-{d(2)}-{d(4)}-{d(2)}",
         f"製造番号 {d(3)}-{d(4)}-{d(4)}", f"会員番号：{d(4)}-{d(4)}-{d(4)}"]),
        "law": r.choice([f"平成{r.randint(1, 30)}年法律第{d(2)}号",
         f"昭和{r.randint(20, 60)}年{r.randint(1, 12)}月{r.randint(1, 28)}日法律第{d(2)}号",
         f"Public Law {d(3)}-{d(3)}", f"42 U.S.C. § {d(4)}"]),
        "recipe": f"Mix {d(3)} g of flour, {d(2)} g sugar; bake {d(2)} min at {d(3)} C.",
        "phone talk": r.choice(["Call 911 or 112.", "Dial 1 for sales, 2 for help.",
         "電話番号は10桁か11桁です。", "The area code 415 is San Francisco.",
         "Press 0 to hold; ext 4521.", "市外局番03は東京です"]),
        "security talk": r.choice([
            "Use a passphrase of four words.", "password: string (required)",
            "Set PASSWORD in .env", "The token is invalid or expired.",
            "The API key is stored in the vault.", "パスワード：未設定",
            "パスワードは大文字と数字を含めること", "暗証番号を3回間違えました", "password=%s",
            "password = input('pw: ')", "PASSWORD_MIN_LENGTH = 12", "secret_name: db-credentials",
            "token_count=1234567890",
            "The password is: (ask Bob)", "password: !vault |", "kubectl create secret generic x",
            "access_token_lifetime = 3600", "APIキー：環境変数から読む", "passwords.txt",
            "password_reset_token_created_at",
        ]),
        "dates talk": r.choice([f"He was born in {r.randint(1900, 2000)}.",
         "The company was born out of a bet on 3 horses.", f"出生率は1.{d(2)}",
         f"Founded 1{r.randint(1, 9)} March 19{d(2)}", "誕生日おめでとう", "生年月日の欄は空欄",
         f"Version of 2024-0{r.randint(1, 9)}-12"]),
        "places talk": r.choice(["東京都の23区", "千葉県市川市は人口49万人", "大阪市北区で3件",
         "5 Main Street shops closed", "He ran 10 Miles Road race", "Top 20 Street foods of Austin",
         "京都市で10人", "横浜市中区の2店舗", "福岡県は60市町村"]),
        "identifiers": r.choice([f"doi:10.{d(4)}/{d(7)}", f"arXiv:{d(4)}.{d(5)}",
         f"CVE-2024-{d(5)}", f"PMID {d(8)}", f"patent US{d(7)}B2", f"特許第{d(7)}号",
         f"CAS {d(5)}-{d(2)}-{d(1)}", f"ASIN B0{some(r, BASE62, 8).upper()}", f"RFC{d(4)}"]),
        "urls": r.choice([f"https://example.com/p/{d(10)}", f"https://x.com/a/status/{d(19)}",
         f"https://youtu.be/{some(r, BASE62, 11)}", f"https://example.com/?q={some(r, BASE62, 24)}",
         f"s3://bucket/{some(r, HEX, 32)}/a.bin"]),
        "versions": r.choice([f"nvidia driver 5{d(2)}.{d(2)}.{d(2)}", f"libfoo.so.1.2.3.{d(1)}",
         f"build 10.0.1904{d(1)}.{d(4)}", f"CUDA 12.{d(1)}, cuDNN 9.{d(1)}.{d(1)}.{d(2)}",
         f"firmware 1.{d(2)}.{d(1)}.{d(1)}", f"image:1.{d(1)}.{d(1)}.{d(1)}",
         f"pkg-{d(1)}.{d(1)}.{d(1)}.{d(1)}.tar.gz"]),
    }  # fmt: skip
