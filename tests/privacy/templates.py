"""Sentences, forms, logs and code that people put values into; `{}` is where the value goes.

Two languages, with and without a label, as prose, form, JSON, CSV and code. Kinds that mean
nothing without their label have one in each template.
"""

from __future__ import annotations

EN: dict[str, tuple[str, ...]] = {
    "email": (
        "Please reply to {} before Friday.", "From: {}\nSubject: Minutes", "contact={}; active",
        '{{"user": "{}", "id": 7}}', "Can you write a polite mail to {}?",
        "<a href=\"mailto:{}\">us</a>",
        "Name,Mail\nBob,{}\n", "I'm {}, and I forgot my login.", "To: Bob <{}>, cc others",
    ),
    "phone": (
        "Call me at {} tomorrow.", "Phone: {}", "My number is {}, thanks.",
        "Tel. {} (office hours)",
        '{{"mobile": "{}"}}', "You can reach Anna on {}.", "WhatsApp {} works best",
        "{} is the cell of my boss",
        "Name,Phone\nBob,{}\n", "Fax: {}\nRegards", "We tried {} twice and nobody answered.",
    ),
    "card": (
        "Charge my card {} please.", "Card number: {} exp 04/29", "I paid with {} yesterday",
        '{{"pan": "{}", "cvv": "123"}}', "visa {}", "The payment with {} was declined, why?",
    ),
    "iban": (
        "Transfer it to {}.", "IBAN: {}", "My account is {}, BIC follows.", '{{"iban": "{}"}}',
        "Pay {} by Monday",
    ),
    "bank_account": ("Account number: {}", "My bank account number is {}.", "acct no. {} at Mizuho",
     "a/c number {}"),
    "ssn": ("My SSN is {}.", "SSN: {}", "social security number {}", "Employee {} started in May",
     '{{"ssn":"{}"}}'),
    "nino": ("NI number: {}", "My national insurance number is {}.", "Payroll has {} on file",
     "NINO {}"),
    "nhs_number": ("NHS number: {}", "The patient's NHS No. is {}.", "NHS {} was referred"),
    "my_number": ("My Number: {}", "My Number (Japan) is {}.", '{{"my_number": "{}"}}'),
    "corporate_number": ("Corporate number: {}", "our corporate number is {}"),
    "national_id": ("{}",),
    "passport": ("Passport number: {}", "My passport no. is {}.", "passport {} expires soon",
     "Passport: {}"),
    "mrz": ("Scanned:\n{}\n", "{}"),
    "licence_gb": ("Driving licence: {}", "Driver number {} was checked", "{}"),
    "licence_jp": ("Japanese driving licence number {}", "Driver's license: {}"),
    "ip": (
        "The login came from {} at noon.", "client {} refused", "ssh root@{} fails", "ping {}",
        '{{"ip": "{}"}}',
        "Host {} is down", "{} - - [05/Mar/2024:10:00:01 +0000] \"GET / HTTP/1.1\" 200 512",
    ),
    "address": ("I live at {}.", "Ship it to:\n{}\nThanks", "Address: {}",
     "Our office, {}, is closed."),
    "birth_date": (
        "DOB: {}", "I was born on {} in Leeds.", "date of birth: {}", '{{"date_of_birth": "{}"}}',
        "Birthday: {}",
        "Patient (born {}) complains of pain",
    ),
    "api_key": (
        "Why does {} not work?", "export KEY={}", '{{"key": "{}"}}',
        "curl -H 'x-api-key: {}' https://api.example.com",
        "token = \"{}\"", "I committed {} by mistake", "KEY: {}\n", "client = Client('{}')",
    ),
    "jwt": ("Authorization: Bearer {}", "decode {} for me", 'token: "{}"',
     "cookie: session={}; path=/"),
    "private_key": ("{}", "Here is my key:\n{}\nWhy does ssh refuse it?", 'key = """{}"""'),
    "connection_string": (
        "postgres://app:{}@db.internal:5432/prod", "DATABASE_URL=mysql://root:{}@db1/shop",
        "mongodb+srv://admin:{}@cluster0.ab12.mongodb.net/?retryWrites=true",
        "redis://:{}@cache:6379/0",
        "git clone https://bot:{}@git.example.com/a/b.git", "amqp://guest1:{}@rabbit:5672/",
    ),
    "password": (
        "My password is {}", "password: {}", "DB_PASSWORD={}\nDB_HOST=db", 'password = "{}"',
        "'passwd': '{}',",
        "Server=sql1;Database=hr;User Id=sa;Password={};", "login bob, pwd: {}",
        "curl -u bob:{} https://example.com/",
        "the wifi password is \"{}\"", "spring.datasource.password={}",
    ),
    "secret": (
        "API_KEY={}", 'client_secret: "{}"', "aws_secret_access_key = {}",
        '{{"access_token": "{}"}}',
        "const apiKey = '{}';", "SECRET_KEY = '{}'", "Authorization: Bearer {}",
        "my secret token is {}",
    ),
}  # fmt: skip

JA: dict[str, tuple[str, ...]] = {
    "email": (
        "{}までご返信ください。", "メール：{}", "連絡先は{}です。", "メールアドレス　{}",
        "担当者（{}）に確認しました。",
        "「{}」宛に送ってください", "私の{}に届きません",
    ),
    "phone": (
        "電話番号：{}", "携帯は{}です。", "TEL {}", "{}までお電話ください。", "連絡先：{}（山田）",
        "ご連絡は{}へ。",
        "電話番号は{}、住所は後で送ります。", "FAX：{}",
    ),
    "card": (
        "カード番号は{}です。", "クレジットカード：{}", "{}で決済しました。",
        "カード番号　{}　有効期限04/29", "「{}」が使えません",
    ),
    "iban": ("{}に送金してください。", "IBAN：{}", "口座は{}です"),
    "bank_account": ("口座番号：{}", "口座番号は{}です。", "普通預金 {}",
     "みずほ銀行 新宿支店 普通 口座番号 {}"),
    "ssn": ("SSNは{}です。", "社会保障番号：{}", "米国のSSN {}"),
    "nino": ("国民保険番号（NINO）：{}", "NINOは{}です"),
    "nhs_number": ("NHS番号：{}", "NHSの番号は{}です"),
    "my_number": (
        "マイナンバーは{}です。", "個人番号：{}", "マイナンバー　{}",
        "個人番号（{}）を提出します。", "私のマイナンバーが{}で",
        "氏名：山田太郎\n個人番号\n{}\n",
    ),
    "corporate_number": ("法人番号：{}", "登録番号 {}", "弊社の法人番号は{}です。"),
    "national_id": ("{}",),
    "passport": ("パスポート番号：{}", "旅券番号は{}です。", "旅券 {}",
     "パスポート（番号{}）を紛失"),
    "mrz": ("読み取り結果：\n{}\n",),
    "licence_gb": ("英国の運転免許 {}", "{}"),
    "licence_jp": ("運転免許証番号：{}", "免許証の番号は{}です。", "免許証番号 第{}号"),
    "ip": ("接続元は{}でした。", "IPアドレス：{}", "{}からのアクセスが多い",
     "サーバ{}に入れません"),
    "address": ("住所：{}", "住所は{}です。", "{}に送ってください。", "届け先　{}\n",
     "実家は{}にあります"),
    "birth_date": (
        "生年月日：{}", "生年月日は{}です。", "{}生まれの男性", "誕生日は{}", "山田太郎（{}生）",
        "生年月日\n{}\n",
    ),
    "api_key": ("{}が使えません。", "APIキーは{}です。", "キー：{}", "「{}」を誤って公開しました",
     "export KEY={}"),
    "jwt": ("このトークン{}を解読して", "Authorization: Bearer {}"),
    "private_key": ("秘密鍵：\n{}\nで接続できません。", "{}"),
    "connection_string": ("接続先は postgres://app:{}@db.internal/prod です",
     "DATABASE_URL=mysql://root:{}@db/shop"),
    "password": (
        "パスワードは「{}」です。", "パスワード：{}", "パスワードは{}です", "パスワード={}",
        "ID: yamada パスワード: {}",
        "仮パスワード「{}」でログイン",
    ),
    "secret": ("APIキー：{}", "シークレットは {} です", "トークン: {}", "アクセスキー = {}"),
}  # fmt: skip

# numbers of other states: what they are called, in both languages
NATIONAL: dict[str, tuple[str, ...]] = {
    "sin": ("My SIN is {}.", "social insurance number: {}", "カナダのSIN：{}"),
    "pps": ("PPS number: {}", "PPSN {} attached"),
    "nric": ("NRIC: {}", "Her NRIC is {}.", "{} signed in at the desk"),
    "aadhaar": ("Aadhaar: {}", "My Aadhaar number is {}"),
    "dni": ("DNI: {}", "Mi DNI es {}.", "{} firmó"),
    "cpf": ("CPF: {}", "meu CPF é {}", "cliente {}"),
    "nir": ("numéro de sécurité sociale : {}", "NIR {}"),
}  # fmt: skip
