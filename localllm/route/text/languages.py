"""The language of a prompt, as far as a rule must know it: by its script, and where that is Latin
by the small words that every sentence of a language has. No model, no data beside these lists."""

from __future__ import annotations

import re

from localllm.route.text.cues import SCRIPTS, script

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_READ_CHARS = 4_000
_LEAST = 0.5  # points: a word has one, shared by the languages that have it
_CLEAR = 1.25  # times the points of the second best

_SMALL_WORDS = {
    "english": (
        "the of and to in is that it was for are with as be this on have not you what which how "
        "why when where who can does do did if from or an by at my your me i we they he she will "
        "would should please there has been about into than then all one some their its write "
        "explain"
    ),
    "german": (
        "der die das und ist nicht ein eine einen einem einer zu den von mit sich des auf für im "
        "dem ich du er sie es wir ihr wie was wer wo warum wann welche welcher aber auch als noch "
        "nach bei aus wird werden haben hat sind war kann bitte mir mich dir dich über zum zur "
        "oder wenn dass"
    ),
    "french": (
        "le la les et est une des du que qui dans pour pas sur avec ne se ce cette ces il elle je "
        "tu nous vous ils au aux mon ma mes votre notre comment pourquoi quel quelle quels quand "
        "où mais ou donc sont être avoir ont fait plus par très c'est qu'est l'on d'un d'une peux "
        "moi"
    ),
    "spanish": (
        "el la los las y es una un que de en del por para con no se su lo como pero más este esta "
        "esto qué cómo cuál cuándo dónde por quién son está están fue ha hay mi tu me te yo muy "
        "sin sobre también puede tiene ser si al le les nos usted porque cuando"
    ),
    "italian": (
        "il lo la gli le e è un una di che non per con sono del della dei delle nel nella si ma "
        "come cosa perché quando dove chi quale questo questa mi ti ci più anche al alla ho hai "
        "ha essere fare molto se io tu lei noi puoi dal dalla sul"
    ),
    "portuguese": (
        "o os as e é um uma de que não para com do da dos das no na nos nas em se por mais como "
        "mas ou ao à são está foi ele ela eu você meu minha seu sua isso este esta qual quando "
        "onde quem porque também muito já pode ser tem há pelo pela"
    ),
    "dutch": (
        "de het een en van is dat niet ik je jij te zijn op met voor aan er maar om hij zij wij "
        "wat wie waar waarom wanneer hoe welke ook als bij naar uit dit deze heeft hebben kan "
        "wordt worden mijn jouw mij nog wel over dan of door geen"
    ),
    "polish": (
        "i w na nie z do to jest się że o jak co czy dla po od za przez ale jego jej są był było "
        "była mam ma mnie ty ja my oni kto gdzie kiedy dlaczego jaki jaka jakie może być tego ten "
        "ta tym oraz lub proszę już tylko bardzo"
    ),
    "swedish": (
        "och att det som en på är av för med till den har de inte om ett han hon jag du vi men "
        "var vad hur varför när vilken vilket kan ska från eller så min mitt din sig över också "
        "efter mig dig detta denna blir finns skulle"
    ),
    "danish": (
        "og at det som en på er af for med til den har de ikke om et han hun jeg du vi men var "
        "hvad hvordan hvorfor hvornår hvilken hvilket kan skal fra eller så min mit din sig over "
        "også efter mig dig dette denne bliver være noget"
    ),
    "czech": (
        "a v na že je se to s z do o jak co pro ale by jsem jsi jsou byl byla bylo tak po za od "
        "který která které kdo kde kdy proč nebo ten ta tento jeho její když není může být mi mě "
        "už jen"
    ),
    "turkish": (
        "ve bir bu için ile mi mı ne da de çok gibi daha ama en var yok olarak değil ben sen o "
        "biz siz nasıl neden nerede hangi kim kadar sonra olan her şey göre bana nedir ya veya"
    ),
    "indonesian": (
        "yang dan di ini itu dengan untuk tidak dari dalam adalah pada akan apa bagaimana mengapa "
        "kapan siapa saya anda kamu ke oleh atau juga bisa ada sudah dapat karena seperti lebih "
        "sebuah tentang jika kita mereka"
    ),
    "vietnamese": (
        "là và của có không cho được một những các này với trong người tôi bạn đã để như gì thế "
        "nào sao khi từ đến hãy về cũng nhưng hay ra vào còn rất"
    ),
    "finnish": (
        "ja on ei se että en hän oli ovat mutta kuin myös tai niin mitä miten miksi missä milloin "
        "kuka mikä minä sinä me te he minun sinun tämä tuo jos kun voi olla ole sitä vain ovatko"
    ),
    "romanian": (
        "și în de la cu nu este un o pe care că din pentru mai sunt ce cum unde când cine să se "
        "am ai are fi fost acest această sau dar după prin foarte mi te eu tu"
    ),
    "hungarian": (
        "a az és hogy nem is egy ez azt van volt meg de csak már mint mi ki hol mikor miért "
        "hogyan milyen én te mi ők lehet kell vagy ha még nagyon el ezt ami aki"
    ),
}
LATIN_LANGUAGES = tuple(_SMALL_WORDS)
_SAME = {"chinese": "han", "korean": "hangul"}  # names of languages that have a script alone
NAMES = (*SCRIPTS, *_SAME, *LATIN_LANGUAGES)

_languages_of: dict[str, list[str]] = {}
for _name, _words in _SMALL_WORDS.items():
    for _one in dict.fromkeys(_words.split()):
        if len(_one) > 1 or not _one.isascii():  # one letter is as likely an unknown
            _languages_of.setdefault(_one, []).append(_name)


def language(text: str) -> str:
    """A name of LATIN_LANGUAGES where that is clear, else the script ("latin", "japanese" ...)."""
    found = script(text)
    if found != "latin":
        return found
    points: dict[str, float] = {}
    for word in _WORD.findall(text[:_READ_CHARS].lower()):
        known = _languages_of.get(word, ())
        for name in known:
            points[name] = points.get(name, 0.0) + 1 / len(known)
    ranked = sorted(points, key=lambda name: -points[name])
    if not ranked or points[ranked[0]] < _LEAST:
        return "latin"
    second = points[ranked[1]] if len(ranked) > 1 else 0.0
    return ranked[0] if points[ranked[0]] >= _CLEAR * second else "latin"


def is_in(text: str, names: tuple[str, ...]) -> str | None:
    """The language of a text, or its script, that is among `names`; None where neither is."""
    wanted = {_SAME.get(name.casefold(), name.casefold()) for name in names}
    return next((one for one in (language(text), script(text)) if one in wanted), None)


def script_named(name: str) -> str:
    """The script that a language of `language` is written in."""
    return "latin" if name in _SMALL_WORDS else name
