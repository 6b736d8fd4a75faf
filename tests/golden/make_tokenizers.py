"""Writes the folder tokenizers beside this file: small tokenizers of every supported kind, trained by Hugging Face's
`tokenizers` on text.txt there, and golden.json, what that library makes of texts with them.

    python3 -m venv VENV && VENV/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3
    VENV/bin/python tests/golden/make_tokenizers.py

text.txt is README.md and the pages as they were when this first ran, and lines in other scripts; it is written where it
is missing. The random strings are not stored: text/golden_test.cpp generates the same ones.
"""

import io
import json
import pathlib
import unicodedata

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = pathlib.Path(__file__).resolve().parent
folder = here / "tokenizers"

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OTHER_SCRIPTS = """
Съешь же ещё этих мягких французских булок, да выпей чаю. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Pójdźże, kiń tę chmurność!
いろはにほへと ちりぬるを わかよたれそ つねならむ。 天地玄黃，宇宙洪荒。 키스의 고유조건은 입술끼리 만나야 하고。 ऋषियों को सताने वाले
دليل لتعليم اللغة العربية. דג סקרן שט בים מאוכזב. Zażółć gęślą jaźń: ÀÉÎÕÜ àéîõü ß ﬁ ﬂ ½ ² ① Ⅳ … “quotes” – — ‘x’ 😀 👩‍👩‍👧 🇫🇷
I'll, you've, they're, it's, don't, I'd, I'm; HE'LL, WE'VE. 1 22 333 4444 55555; 3.14159, 1,000,000; a_b, x++, <s>, <0x0A>, ##.
"""
FRAGMENTS = [
    " ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "'s", "'LL", "don't", "the", " and", "memory", "123", "4567", "é",
    "e\u0301", "½", "ſ", "'ſ", "\u212a", "😀", "👩\u200d👩\u200d👧", "中文", "。", "▁", "Ġ", "<0x41>", "<s>", "</s>",
    "<|endoftext|>", "[MASK]", "##", "\u00a0", "\u3000", "\u200d", "\u0085", "İ", "ﬁ", "…", "नमस्ते", "שלום", "한국어", "_",
    "<tool>", "Word", "<unk>", ".", ",",
]  # fmt: skip
CASES = [
    "", " ", "a", "Hello, world!", " two  spaces ", "I'll don't IT'S", "12345678", "naïve café", "e\u0301", "\n\n x\n",
    "<|endoftext|>x<|endoftext|>", "<s>a</s>", "a [MASK] b", "a<tool>b <tool> c", "Word WordWord word", "中文字符", "😀😀",
    "\u180e\u0085\u00a0x", "tape.backward(loss);", "\u0000",
]  # fmt: skip


class SplitMix:
    """splitmix64 (Steele, Lea, Flood 2014)."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return (z ^ (z >> 31)) % n


def bert_normalized(c):
    """BertNormalizer by Python's tables."""
    if (unicodedata.category(c) in ("Cc", "Cf") and c not in "\t\n\r") or c in "\0\ufffd":
        return ""
    kept = "".join(d for d in unicodedata.normalize("NFD", " " if c.isspace() else c) if unicodedata.category(d) != "Mn")
    return kept.lower()


def agrees(c):
    """Do the library's tables, some of which are those of Unicode 8 and 11, say of a character what Unicode 14 says?"""
    chinese = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=False).normalize_str(c) != c
    is_punctuation = unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")
    return (
        all(
            getattr(normalizers, form)().normalize_str(text) == unicodedata.normalize(form, text)
            for form in ("NFC", "NFD", "NFKC", "NFKD")
            for text in (c, "\u0345" + c, c + "\u0334", "a\u0327" + c, c + "\u0327")
        )
        and (chinese or normalizers.BertNormalizer().normalize_str(c) == bert_normalized(c))
        and (normalizers.StripAccents().normalize_str(c) == "") == unicodedata.category(c).startswith("M")
        and (len(pre_tokenizers.Punctuation().pre_tokenize_str("a" + c)) == 2) == is_punctuation
    )


def alphabet():
    """Code points assigned in Unicode 14, whose tables Python 3.11 has, about which the library agrees."""
    assert unicodedata.unidata_version == "14.0.0", "run with Python 3.11"
    assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    return [c for c in assigned if agrees(chr(c))]


def ranges(points):
    found = []
    for c in points:
        if found and found[-1][1] == c:
            found[-1][1] = c + 1
        else:
            found.append([c, c + 1])
    return found


def random_strings(points):
    below = lambda end: sum(c < end for c in points)
    counts = [below(0x250), below(0x3400), len(points)]
    strings = []
    for block in range(100):
        random = SplitMix(block)
        strings.append([])
        for _ in range(100):
            length, mode = random.below(33), random.below(6)
            pick = [
                lambda: chr(32 + random.below(95)),
                lambda: chr(random.below(128)),
                lambda: chr(points[random.below(counts[0])]),
                lambda: chr(points[random.below(counts[1])]),
                lambda: chr(points[random.below(counts[2])]),
                lambda: FRAGMENTS[random.below(len(FRAGMENTS))],
            ][mode]
            strings[-1].append("".join(pick() for _ in range(length)))
    return strings


def fnv(data, value=0xCBF29CE484222325):
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return value


def hash_of(ids_or_text):
    if isinstance(ids_or_text, str):
        return fnv(ids_or_text.encode() + b"\xff")
    return fnv(b"".join(i.to_bytes(4, "little") for i in ids_or_text) + b"\xff")


def text():
    path = folder / "text.txt"
    if not path.exists():
        pages = [here.parents[1] / "README.md", *sorted((here.parents[1] / "docs").glob("*.md"))]
        whole = "".join(page.read_text() for page in pages)
        path.write_text(whole[:90000].rsplit("\n", 1)[0] + OTHER_SCRIPTS * 4)
    return path.read_text()


def special(*contents, **how):
    return [AddedToken(content, special=True, normalized=False, **how) for content in contents]


def byte_level(corpus, pre_tokenizer, specials, normalizer=None, post=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(corpus.splitlines(True), trainer)
    if post:
        tokenizer.post_processor = post(tokenizer)
    return tokenizer


def template(tokenizer, single, *names):
    return processors.TemplateProcessing(single=single, special_tokens=[(n, tokenizer.token_to_id(n)) for n in names])


def gpt2(corpus):
    return byte_level(corpus, pre_tokenizers.ByteLevel(add_prefix_space=False), special("<|endoftext|>"))


def smollm(corpus):
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return byte_level(corpus, pre_tokenizers.Sequence(steps), special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


def llama3(corpus):
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    steps = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    post = lambda t: processors.Sequence([processors.ByteLevel(), template(t, "<s> $A", "<s>")])
    tokenizer = byte_level(corpus, steps, special("<s>", "<|endoftext|>"), post=post)
    return edited(tokenizer, lambda j: j["model"].update(ignore_merges=True))


def qwen2(corpus):
    split = pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated")
    steps = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = byte_level(corpus, steps, special("<|endoftext|>"), normalizer=normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def falcon(corpus):
    steps = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ]
    return byte_level(corpus, pre_tokenizers.Sequence(steps), special("<|endoftext|>"))


def roberta(corpus):
    specials = special("<s>", "</s>", "<unk>") + special("[MASK]", lstrip=True)
    post = lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    return byte_level(corpus, pre_tokenizers.ByteLevel(add_prefix_space=True), specials, post=post)


def edited(tokenizer, edit):
    parsed = json.loads(tokenizer.to_str())
    edit(parsed)
    return Tokenizer.from_str(json.dumps(parsed))


def byte_fallback(corpus, normalizer, pre_tokenizer, decoder):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1100, special_tokens=specials + [f"<0x{b:02X}>" for b in range(256)], show_progress=False, limit_alphabet=90
    )
    tokenizer.train_from_iterator(corpus.replace("<", " ").splitlines(True), trainer)

    def edit(parsed):
        parsed["added_tokens"] = parsed["added_tokens"][:3]
        parsed["model"]["byte_fallback"] = True

    tokenizer = edited(tokenizer, edit)
    tokenizer.post_processor = template(tokenizer, "<s> $A", "<s>")
    return tokenizer


def llama2(corpus):
    """Trained on words, used on whole texts, as SentencePiece does."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = byte_fallback(corpus, normalizer, pre_tokenizers.Split("▁", "merged_with_next"), decoders.Sequence(steps))
    return edited(tokenizer, lambda parsed: parsed.update(pre_tokenizer=None))


def gemma(corpus):
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer = byte_fallback(corpus, normalizers.Replace(" ", "▁"), pre_tokenizers.Split("▁", "merged_with_next"),
                              decoders.Sequence(steps))  # fmt: skip
    tokenizer.pre_tokenizer = split
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("\n\n", normalized=False)])
    return tokenizer


def unigram(corpus):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus.splitlines(), trainer)
    tokenizer.post_processor = template(tokenizer, "$A </s>", "</s>")
    return tokenizer


def unigram_bytes(corpus):
    """Metaspace on the first word only, unknown characters as bytes."""
    tokenizer = edited(unigram(corpus), lambda j: j.update(post_processor=None, normalizer={"type": "NFKD"}))
    parsed = json.loads(tokenizer.to_str())
    parsed["model"]["vocab"] = parsed["model"]["vocab"][:500] + [[f"<0x{b:02X}>", -30.0] for b in range(256)]
    parsed["model"]["byte_fallback"] = True
    parsed["pre_tokenizer"]["prepend_scheme"] = "first"
    tokenizer = Tokenizer.from_str(json.dumps(parsed))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return tokenizer


def word_piece(corpus, normalizer, pre_tokenizer, post, longest=100):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=longest))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(corpus.splitlines(), trainer)
    tokenizer.post_processor = post(tokenizer)
    return tokenizer


def bert_uncased(corpus):
    post = lambda t: template(t, "[CLS] $A [SEP]", "[CLS]", "[SEP]")
    return word_piece(corpus, normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), post)


def bert_cased(corpus):
    post = lambda t: processors.BertProcessing(("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))
    normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip()])
    return word_piece(corpus, normalizer, pre_tokenizers.Whitespace(), post, longest=20)


def odd(corpus):
    """What the others lack: words that end in </w>, added tokens with every option, lower case."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="@"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous")]
    )
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>"], end_of_word_suffix="</w>",
                                  continuing_subword_prefix="@", show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(corpus.splitlines(), trainer)
    tokenizer.add_tokens([
        AddedToken("Word", single_word=True, normalized=True), AddedToken("<tool>", lstrip=True, rstrip=True),
        AddedToken("the", single_word=True, normalized=False), AddedToken("don't", rstrip=True, normalized=False),
    ])  # fmt: skip
    tokenizer.add_special_tokens(special("[MASK]", lstrip=True) + special("<s>", rstrip=True))
    return tokenizer


def sentence_piece(blocks):
    """A BPE by scores, as Llama's tokenizer.model is: its tables, and what Google's library makes of texts."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=0.995, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    every = range(processor.vocab_size())
    kinds = [(processor.is_unknown, 2), (processor.is_control, 3), (processor.is_byte, 6), (processor.is_unused, 5)]
    tables = {
        "tokens": [processor.id_to_piece(i) for i in every],
        "scores": [processor.get_score(i) for i in every],
        "types": [next((kind for is_kind, kind in kinds if is_kind(i)), 1) for i in every],
    }
    path = folder / "sentence_piece_tables.json"
    path.write_text(json.dumps(tables, ensure_ascii=False, separators=(",", ":")))
    return {
        "text": hash_of(processor.encode(text())),
        "random": [hash_of(sum((processor.encode(string) for string in block), [])) for block in blocks],
        "cases": [[case, processor.encode(case), processor.decode(processor.encode(case))] for case in CASES],
    }


def main():
    folder.mkdir(exist_ok=True)
    corpus = text()
    points = alphabet()
    blocks = random_strings(points)
    golden = {
        "made_by": f"tests/golden/make_tokenizers.py, tokenizers {tokenizers.__version__}",
        "alphabet": [end for pair in ranges(points) for end in pair],
        "fragments": FRAGMENTS,
        "random_strings": [hash_of("\n".join(block)) for block in blocks],
        "tokenizers": {},
    }
    kinds = [gpt2, smollm, llama3, qwen2, falcon, roberta, llama2, gemma, unigram, unigram_bytes, bert_uncased,
             bert_cased, odd]  # fmt: skip
    for make in kinds:
        path = folder / f"{make.__name__}.json"
        if not path.exists():  # training gives other ids in other versions
            path.write_text(json.dumps(json.loads(make(corpus).to_str()), ensure_ascii=False, separators=(",", ":")))
        tokenizer = Tokenizer.from_file(str(path))
        encode = lambda string: tokenizer.encode(string).ids
        decode = lambda ids, skip=False: tokenizer.decode(ids, skip_special_tokens=skip)
        ids = encode(corpus)
        result = {
            "text": [len(ids), hash_of(ids), hash_of(decode(ids)), hash_of(decode(ids, True))],
            "random": [],
            "cases": [[case, encode(case), decode(encode(case)), decode(encode(case), True)] for case in CASES],
        }
        for block in blocks:
            all_ids = [encode(string) for string in block]
            decoded = "\n".join(decode(each) for each in all_ids)
            result["random"].append([hash_of(sum(all_ids, [])), hash_of(decoded)])
        tokenizer.encode_special_tokens = True
        result["literal"] = [[case, tokenizer.encode(case, add_special_tokens=False).ids] for case in CASES]
        golden["tokenizers"][make.__name__] = result
    golden["sentence_piece"] = sentence_piece(blocks)
    # One tokenizer a line.
    lines = json.dumps(golden, separators=(",", ":"), ensure_ascii=True).replace('},"', '},\n"').replace(':{"', ':{\n"')
    (folder / "golden.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
