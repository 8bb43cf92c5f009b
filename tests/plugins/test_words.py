"""The words of texts in any script, and what the built-in components make of such texts."""

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftp.data.examples import Corpus, write_examples
from ftp.data.ledger import Ledger
from ftp.data.words import words
from ftp.types import Example
from ftp_plugins.curators import rules
from ftp_plugins.curators.quality import Quality
from ftp_plugins.evaluators.rouge import Rouge

TEXTS = {
    "en": "The lake is frozen in winter. Children skate on it after school, and their grandparents sell hot soup on "
    "the shore until it gets dark.",
    "de": "Im Winter ist der See zugefroren. Nach der Schule laufen die Kinder darauf Schlittschuh, und die Großeltern "
    "verkaufen am Ufer heiße Suppe, bis es dunkel wird.",
    "ar": "يَتَجَمَّدُ مَاءُ الْبُحَيْرَةِ فِي الشِّتَاءِ. يَلْعَبُ الْأَطْفَالُ عَلَيْهَا بَعْدَ الْمَدْرَسَةِ، وَيَبِيعُ الْجَدُّ الْحَسَاءَ السَّاخِنَ عَلَى الشَّاطِئِ حَتَّى الْمَسَاءِ.",
    "hi": "सर्दियों में झील जम जाती है। बच्चे स्कूल के बाद उस पर खेलते हैं, और उनके दादा-दादी किनारे पर अँधेरा होने तक गरम सूप बेचते हैं।",
    "bn": "শীতকালে হ্রদের জল জমে যায়। ছেলেমেয়েরা স্কুলের পরে সেখানে খেলা করে, আর তাদের দাদু-দিদা সন্ধ্যা পর্যন্ত পাড়ে গরম স্যুপ বিক্রি করেন।",
    "ta": "குளிர்காலத்தில் ஏரி உறைந்து விடுகிறது. பள்ளிக்குப் பிறகு குழந்தைகள் அங்கே விளையாடுகிறார்கள், பாட்டி கரையில் சூடான சூப் விற்கிறார்.",
    "th": "ในฤดูหนาวน้ำในทะเลสาบกลายเป็นน้ำแข็ง เด็กๆ มาเล่นที่นี่หลังเลิกเรียน ส่วนปู่ย่าตายายขายซุปร้อนอยู่ริมฝั่งจนกระทั่งมืด",
    "zh": "冬天湖面结了冰。放学以后孩子们在上面滑冰，爷爷奶奶在岸边卖热汤，一直卖到天黑。",
    "ja": "冬になると湖は凍ります。放課後、子どもたちはその上でスケートをし、祖父母は暗くなるまで岸辺で温かいスープを売ります。",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी की भाषा", ["हिन्दी", "की", "भाषा"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("เขาทำงานที่กรุงเทพ", ["เขา", "ทำงาน", "ที่", "กรุงเทพ"]),
        ("机器学习是人工智能的一个分支。", ["机器", "学习", "是", "人工", "智能", "的", "一个", "分支"]),
        ("東京はＩＢＭの3.14で、ﾊﾛｰ", ["東京", "は", "ibm", "の", "3", "14", "で", "ハロー"]),
        ("我用iPhone手机", ["我", "用", "iphone", "手机"]),
        ("كَتَبَ الطَّالِبُ", ["كتب", "الطالب"]),
        ("שָׁלוֹם", ["שלום"]),
        ("안녕하세요 여러분", ["안녕하세요", "여러분"]),
        ("co\u00adop Straße’s snake_case", ["coop", "strasse", "s", "snake", "case"]),
        ("x\ud800 東", ["x", "東"]),
        ("٣ … — ๏", ["٣"]),
    ],
)
def test_words_of_a_script(text, expected):
    assert words(text) == expected


@given(st.text(st.characters(max_codepoint=127)))
@example("don't_stop 3.14")
def test_ascii_words_are_the_same_with_other_text_beside_them(text):
    plain = re.findall(r"[^\W_]+", text.casefold())
    assert words(text) == plain
    assert words(text + " ’") == plain
    assert words(text + " 水") == [*plain, "水"]


@given(st.text())
def test_composed_and_decomposed_text_has_the_same_words(text):
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize("language", TEXTS)
def test_there_are_about_as_many_words_as_in_english(language):
    """The same text in nine languages: 25 words in English, fewer in Tamil, which joins them."""
    assert 12 <= len(words(TEXTS[language])) <= 36


@pytest.mark.parametrize("language", TEXTS)
def test_a_copy_scores_one_and_another_text_little(ftp_answers, language):
    other = TEXTS["de" if language == "en" else "en"]
    metrics = Rouge().evaluate(ftp_answers([("q", TEXTS[language], other, TEXTS[language])] * 2)).metrics
    assert [metric.tuned for metric in metrics] == [1, 1, 1]
    assert metrics[0].base < 0.1


@pytest.mark.parametrize("language", TEXTS)
def test_a_loop_is_found_and_prose_is_none(language):
    assert rules.loop(TEXTS[language]) == ""
    assert rules.loop(TEXTS[language] * 3) != ""
    assert rules.gopher(TEXTS[language] * 5) != ""


def test_thai_prose_breaks_no_rule_of_gopher():
    more = (
        "ทุกเช้าชาวประมงออกเรือไปจับปลาก่อนดวงอาทิตย์ขึ้น พวกเขาเชื่อว่าถ้าฟ้าเป็นสีแดงจะมีพายุในตอนบ่าย "
        "คุณครูสอนวิชาประวัติศาสตร์ด้วยแผนที่เก่าซึ่งแขวนไว้ข้างหน้าต่าง และนักเรียนชอบถามเรื่องเมืองที่หายไปแล้ว"
    )
    assert len(words(TEXTS["th"] + more)) > 60
    assert rules.gopher(TEXTS["th"] + more) == ""


@pytest.mark.parametrize("languages", [["en"], ["en", "th"], ["zh"]])
def test_languages_keep_only_theirs(tmp_path, languages):
    ledger = Ledger()
    ids = {language: ledger.add("train", line, "train", "domain") for line, language in enumerate(TEXTS, 1)}
    rows = [Example(text=text, id=ids[language], source="train") for language, text in TEXTS.items()]
    corpus = Corpus(write_examples(tmp_path / "t.arrow", rows), write_examples(tmp_path / "v.arrow", []), {})
    Quality(languages=languages).curate(corpus, ledger)
    assert ledger.kept("train") == {ids[language] for language in languages}


def test_stems_are_those_of_the_library(ftp_answers):
    from rouge_score.rouge_scorer import RougeScorer

    reference, answer = "the cats were running in gardens", "a cat runs in the garden"
    metrics = Rouge(stem=True).evaluate(ftp_answers([("q", reference, answer, answer)] * 2)).metrics
    expected = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, answer)
    assert [metric.tuned for metric in metrics] == pytest.approx([score.fmeasure for score in expected.values()])
