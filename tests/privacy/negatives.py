"""Texts without personal data that look as if they had some: a family of each sort."""

from __future__ import annotations

import base64
from random import Random
from uuid import UUID

from tests.privacy.state_numbers import my_number
from tests.privacy.values import (
    BASE62,
    DIGITS,
    HEX,
    UPPER,
    card_digits,
    luhn_digit,
    printed_card,
    some,
)


def hard_negatives(r: Random) -> dict[str, str]:
    """One text of each family."""

    def d(count: int) -> str:
        return some(r, DIGITS, count)

    def n(first: int, last: int) -> str:
        return str(r.randint(first, last))

    sha = some(r, HEX, 40)
    return {
        "order number": r.choice([f"Order {d(4)}-{d(4)}-{d(4)} has shipped.", f"order no. {d(10)}",
         f"注文番号：{d(12)}", f"Your order #{d(3)}-{d(7)}-{d(7)}"]),
        "invoice": r.choice([f"Invoice {d(8)} of May", f"請求書番号 {d(4)}-{d(6)}",
         f"PO {d(10)} approved"]),
        "version": r.choice([
            f"upgraded to v{n(1, 20)}.{n(0, 20)}.{d(1)}.{d(1)}",
            f"numpy=={n(1, 2)}.{n(0, 26)}.{d(1)}.{d(1)}",
            f"Chrome/{n(90, 130)}.0.0.0 Safari/537.36",
            f"Version {n(1, 9)}.{d(1)}.{n(0, 99)}.{d(2)}",
            f"バージョン {n(1, 9)}.0.{d(1)}.{d(1)}",
        ]),
        "git sha": r.choice([f"commit {sha}", f"fixed in {sha[:10]}",
         f"https://github.com/a/b/commit/{sha}", f"{sha[:7]}..{sha[8:15]}", f"rev = \"{sha}\""]),
        "digest": r.choice([f"sha256:{some(r, HEX, 64)}", f"md5 {some(r, HEX, 32)}  file.iso",
         f"integrity=\"sha512-{base64.b64encode(r.randbytes(64)).decode()}\"",
                            f"{some(r, HEX, 64)}  localllm.whl"]),
        "uuid": r.choice([f"request id {UUID(bytes=r.randbytes(16))}",
         f"id={UUID(bytes=r.randbytes(16), version=4)}",
         f"ジョブ {UUID(bytes=r.randbytes(16))} が失敗"]),
        "isbn": r.choice([f"ISBN 978-4-{d(2)}-{d(6)}-{d(1)}",
         f"ISBN-10 {d(1)}-{d(3)}-{d(5)}-{d(1)}", f"ISBN: 978{d(10)}"]),
        "article code": r.choice([f"JANコード 49{d(11)}", f"EAN 40{d(11)}", f"UPC {d(12)}",
         f"商品コード：45{d(11)}"]),
        "price": r.choice([f"It costs $1,{d(3)},{d(3)}.{d(2)}",
         f"価格は{r.randint(1, 99)},{d(3)},{d(3)}円", f"{d(2)},{d(3)} - {d(2)},{d(3)} EUR",
         f"¥{r.randint(1, 9)}{d(7)}"]),
        "part number": r.choice([f"Part 415-5{d(2)}-26{d(1)} fits", f"型番 03-{d(4)}-{d(3)}",
         f"P/N {d(3)}-{d(5)}-{d(3)}", f"model {d(3)}.{d(3)}.{d(4)}",
         f"品番：{d(4)}-{d(3)}-{d(3)}"]),
        "timestamp": r.choice([
            f"2024-0{n(1, 9)}-1{d(1)} 1{d(1)}:{n(10, 59)}:{n(10, 59)}",
            f"ts={n(1_600_000_000, 1_800_000_000)}",
            f"[{n(1_600_000_000_000, 1_800_000_000_000)}] started",
            f"2024010{n(1, 9)}T1{d(1)}3000Z",
            f"at 20240{n(1, 9)}1512{d(4)}",
        ]),
        "date": r.choice([f"The contract of 2021-0{r.randint(1, 9)}-11 ends",
         f"令和{r.randint(1, 6)}年{r.randint(1, 12)}月{r.randint(1, 28)}日に施行",
         f"締切は2024/{r.randint(1, 12)}/{r.randint(1, 28)}",
                          f"Meeting on March {r.randint(1, 28)}, 2024",
                          f"生産日 2024年{r.randint(1, 12)}月1日"]),
        "failing card": r.choice(["card {}", "カード番号は{}です", "try {}",
         "{}"]).format(_failing_card(r)),
        "failing my number": r.choice(["マイナンバーは{}です", "My Number: {}",
         "{}"]).format(_failing_my_number(r)),
        "failing iban": f"IBAN: DE{r.randint(10, 96)}{'0' * 8}{d(8)}{r.randint(10, 99)}x",
        "tracking": r.choice([f"追跡番号 {d(4)}-{d(4)}-{d(4)}", f"お問い合わせ番号：{d(12)}",
         f"Tracking number 1Z{some(r, UPPER + DIGITS, 16)}", f"tracking {d(12)}"]),
        "imei": f"IMEI {_imei(r)}",
        "plain digits": r.choice([f"{d(9)}", f"x = {d(10)}", f"{d(3)} {d(2)} {d(4)} {d(1)} {d(5)}",
         f"id {d(11)}", f"total {d(12)} rows", f"{d(5)} {d(5)} {d(5)}"]),
        "coordinates": f"{r.randint(20, 45)}.{d(6)}, 139.{d(6)}",
        "mac": f"ether {':'.join(some(r, HEX, 2) for _ in range(6))}",
        "scores": f"{d(2)}-{d(2)}, {d(2)}-{d(2)}, {d(2)}-{d(2)} after {d(3)} games",
        "statute": r.choice([f"民法第{d(3)}条第{r.randint(1, 9)}項",
         f"RFC {d(4)} section {n(1, 9)}.{n(1, 9)}.{n(1, 9)}.{n(1, 9)}",
         f"12 CFR {d(3)}.{d(2)}"]),
        **_code(r), **_prose(r),
    }  # fmt: skip


def _code(r: Random) -> dict[str, str]:
    return {
        "code with passwords": r.choice([
            'password = os.environ["DB_PASSWORD"]', "def login(user: str, password: str) -> None:",
            "if not password: raise ValueError",
            "password = getpass.getpass('Password: ')", "PASSWORD=${DB_PASSWORD}",
            "password: {{ vault_password }}", '"password": null,', "self.password = password",
            "password=<your-password>", "passwd = config.get('passwd')", "PASSWORD = None",
            "password: ********", "user.set_password(form.cleaned_data)",
            "password_hash = bcrypt.hashpw(password, salt)", 'PASSWORD="changeme"',
            "kubectl get secret db-password -o yaml", "ALTER USER app WITH PASSWORD :password;",
        ]),
        "code with tokens": r.choice([
            "tokenizer = AutoTokenizer.from_pretrained('gpt2')", '"max_tokens": 4096,',
            "token_type: bearer", "next_token = logits.argmax(-1)", "n_tokens = 32768",
            'headers = {"Authorization": f"Bearer {token}"}',
            "API_KEY = os.getenv('OPENAI_API_KEY')", "secret = request.args['secret']",
            "tokens = text.split()",
            "client = OpenAI(api_key=settings.openai_api_key)", "csrf_token: {{ csrf_token }}",
            "secretary = Person('Ann')", "api_key: str | None = None", "eos_token_id = 128009",
            "API_KEY=your-api-key-here", "token: ${{ secrets.GITHUB_TOKEN }}",
            "access_token_url = 'https://example.com/oauth2/token'", "sk-learn==1.5",
            "the hf_hub_download function",
        ]),
        "code": r.choice([
            "std::vector<int> a{1, 2, 3};", "use de::ad::beef;", "x = arr[1:10:2]",
            "@property\ndef name(self): ...", "npm install @types/node@20.11.5", "lodash@4.17.21",
            "git@github.com:org/repo.git", "logo@2x.png", "print(f'{a:>10}')", "0x7ffeefbff5c8",
            "#ff8800 #123456", "for i in range(1000000000):",
            "SELECT 4111 FROM t WHERE id IN (1, 2, 3)",
            "1e-10 * 6.02214076e23", "chmod 755 /usr/local/bin", "listen 127.0.0.1:8080",
            "bind 0.0.0.0", "netmask 255.255.255.0", "a = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]",
            "http://user@host/path", "https://example.com/a:b@c", "nameserver 8.8.8.8",
            "torch.Size([1, 4096, 32000])", f"seed={some(r, DIGITS, 9)}",
            "@media (max-width: 600px)",
            "10:30:45 12:01:02", "fe:ed:fa:ce", "::before { content: ''; }", "getty@tty1.service",
        ]),
        "image data": f"data:image/png;base64,{base64.b64encode(r.randbytes(90)).decode()}",
        "random words": " ".join(some(r, BASE62, r.randint(6, 24)) for _ in range(6)),
    }  # fmt: skip


def _prose(r: Random) -> dict[str, str]:
    return {
        "prose": r.choice([
            "Password must be at least 8 characters and contain a digit.",
            "I forgot my password, what now?", "Is a token the same as a secret?",
            "She was born in Leeds in the winter of 1947.",
            "The card was a 4 of hearts.", "Phone me when you are there.",
            "The address is unknown.", "We met at 10 Downing, then walked 5 miles along the road.",
            "An IBAN has up to 34 characters.",
            "The password is required for all users.", "Passports are checked at the border.",
            "Stubborn people were born stubborn.", "My birthday party had 25 guests and 3 cakes.",
            "He drove 66 Mustang Drive-in fans home.",
            "There are 50 states and 435 seats; 218 is a majority.",
            "Secret: the best pizza needs 00 flour.", "The secret is patience.",
            "Wall Street rose 2.5% to 38,989 points.", "His passport expired.",
            "Social security is funded by taxes.", "Our NHS budget was 180 billion in 2023.",
        ]),
        "prose in Japanese": r.choice([
            "パスワードを忘れました。", "パスワードは8文字以上にしてください。",
            "マイナンバーカードの申請方法を教えて", "東京都渋谷区で会議があります。",
            "大阪府の人口は8,837,685人です。", "電話番号が変わりました。",
            "住所変更の手続きは市役所でできます。", "生年月日を入力してください",
            "暗証番号は4桁です。", "口座番号がわからない", "昭和55年3月5日に完成した橋",
            "第123回国会、令和5年法律第48号", "トークンとは何ですか",
            "トークン数は4096です。", "神奈川県は1,2,3区に分かれる",
            "カード番号の桁数は14から16です。", "運転免許証の更新に3000円かかる",
            "北海道で2番目に大きい町", "京都府3位、2024年1月の売上", "APIキーの取得方法",
            "秘密鍵を安全に保管する方法",
            "旅券法第3条", "午前10時30分に10番線から発車", "メールで連絡します",
            "本は1200円（税込1320円）です。", "生まれは大阪です", "2024年1月生産の車",
            "住所は東京です",
        ]),
    }  # fmt: skip


def _failing_card(r: Random) -> str:
    digits = card_digits(r)
    wrong = str((int(digits[-1]) + r.randint(1, 9)) % 10)
    return printed_card(digits[:-1] + wrong, r)


def _failing_my_number(r: Random) -> str:
    number = my_number(Random(r.random()))
    digits = "".join(str(int(c)) for c in number if c.isdigit())
    return digits[:-1] + str((int(digits[-1]) + r.randint(1, 9)) % 10)


def _imei(r: Random) -> str:
    body = "35" + some(r, DIGITS, 12)
    return body + luhn_digit(body)
