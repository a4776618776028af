# ruff: noqa: E501 -- one template a line reads best
"""Inputs of the text tests: what make_text_goldens.py gives to Hugging Face and the tests give to weft."""

TEXTS = [
    "",
    " ",
    "\n",
    "\t",
    "a",
    "  a",
    "a  ",
    "\r\n\r\n",
    "\n\n\n \n",
    "The quick brown fox jumps over the lazy dog.",
    "I'm sure you'Ll say WE'RE fine, it's o'clock'd, they've 's 't ''s",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg.",
    "Dès Noël, où un zéphyr haï me vêt de glaçons würmiens.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。",
    "いろはにほへと ちりぬるを。カタカナも、ﾊﾝｶｸも。",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "Tôi yêu tiếng Việt; To\u0302i ye\u0302u tie\u0302\u0301ng Vie\u0323\u0302t",
    "\u1112\u1161\u11ab\u1100\u1173\u11af e\u0301 \u212b \ufb01 \u1e9b\u0323 \u0958",
    "ሰማይ አይታረስ ንጉሥ አይከሰስ",
    "𐌼𐌰𐌲 𐌲𐌻𐌴𐍃 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀𒁀",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👩🏽‍🚀 🇩🇪🇫🇷🇯🇵 1️⃣ ❤️ ☺︎ 🫠🪿",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "1234567890 3.14159 1,000,000 0x1F 2024-07-26T12:34:56Z 100% $5 #1 v2.0.1",
    "１２３ ٣٤٥ ४५६ ½ Ⅷ ² ㊿ 三百",
    'def f(x: int) -> str:\n    if x > 0:\n        return f"{x!r}"\n\treturn None  # done\n\n\n',
    "#include <vector>\nint main() { std::vector<int> v{1, 2}; return v[0] != 2 ? 0 : ~v[1] << 3; }\n",
    '{"key": [1, 2.5e-3, null, true], "nested": {"a\\n": "\\u00e9"}}',
    "SELECT * FROM t WHERE a >= 'x' AND b <> \"y\"; -- comment",
    '<div class="a b">&nbsp;</div>\n\\begin{equation} \\frac{a}{b} \\end{equation}',
    "https://example.org/path?q=a+b&c=%20#frag user.name+tag@mail.example",
    "word" + " " * 37 + "word\t\t\t\tword \t \n \t\n" + "\n" * 23 + "end   ",
    "\u00a0nbsp\u3000wide\u200bzero\u2028line\u2029para\u0085nel\ufeffbom\u00adsoft",
    "\x00\x01\x02\x08\x0b\x0c\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\ufffd \ufffe \uffff \ue000 \U000f0000 \U0010ffff \U0001f9ff",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|> <|im_start <|im_end|>><<|im_end|>",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nA<|eot_id|>",
    '<tool_call>\n{"name": "f"}\n</tool_call><think>\n\n</think>',
    "<s>[INST] hello [/INST] hi</s> <unk> <0x0A> ▁under▁score _ __",
    "Ġthe Ċ ÄĠ Âł",
    "camelCaseWordsAndHTTPServer snake_case_words kebab-case-words SCREAMING_CASE",
    "!!! ??? ... --- === *** ~~~ ,,, ;;; ::: \"\"\" ''' ``` ((( ))) [[[ ]]] {{{ }}} <<< >>>",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
]

# (piece, times): long inputs, of which the goldens hold only the number of ids and a hash.
LONG_TEXTS = [
    ("a", 20000),
    (" ", 20000),
    ("\n", 5000),
    ("The cat sat on the mat. ", 2000),
    ("漢字かな", 3000),
    ("👩🏽‍🚀", 1500),
    ("9", 5000),
]

SPECIAL_TOKENS = {
    "llama-bpe": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "metaspace": ["<unk>", "<s>", "</s>"],
}
# Added, but not special: matched in all text and never skipped.
ADDED_TOKENS = {"llama-bpe": [], "qwen2": ["<tool_call>", "</tool_call>", "<think>", "</think>"], "metaspace": []}

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather of a place, in <b>degrees</b> & more: "it\'s" naïve 天気',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["place"],
        },
    },
}
CALL = {
    "name": "get_weather",
    "arguments": {"place": "Zürich", "days": [1, 2], "exact": True, "limit": 2.0, "none": None},
}


def chats():
    system = {"role": "system", "content": "Answer in  one sentence.\n"}
    user = {"role": "user", "content": " What is 2+2? <|im_end|> {{ x }}"}
    answer = {"role": "assistant", "content": "4\n"}
    again = {"role": "user", "content": "Sicher? 🤔"}
    thinking = {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nIt is 4."}
    reasoning = {"role": "assistant", "content": "It is 4.", "reasoning_content": "2+2\n"}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call12345", "type": "function", "function": CALL}],
    }
    result = {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": '{"celsius": 21.5}'}
    return {
        "user": [user],
        "system": [system, user],
        "turns": [system, user, answer, again],
        "thinking": [user, thinking, again],
        "reasoning": [user, reasoning, again],
        "tool": [system, user, call, result],
        "tool_answered": [user, call, result, answer, again],
        "two_users": [user, again],
        "empty": [],
        "no_content": [{"role": "user"}],
    }


# One-line templates on the points where Jinja engines differ; variables: see EXPRESSION_VARIABLES.
EXPRESSION_VARIABLES = {
    "s": " Hello, World ",
    "empty": "",
    "n": 3,
    "neg": -7,
    "f": 2.0,
    "tiny": 0.00001,
    "huge": 1e16,
    "third": 0.1,
    "yes": True,
    "no": False,
    "nothing": None,
    "list": [1, "two", 3.5, None, True, "it's"],
    "nested": {"b": {"x": [1, {}], "y": []}, "a": "é\u2028<&>\"'\\\n\t\x01"},
    "items": [{"name": "a", "v": 1}, {"name": "b", "v": 2}, {"name": "c"}],
    "schema": {"type": "array", "items": {"type": "string"}, "keys": 1, "get": 2},
    "tool": WEATHER_TOOL,
    "quoted": 'say "hi" it\'s',
    "multi": "one\ntwo\n\nthree",
    "uni": "ÄÖ ß 漢 🎉 e\u0301 \u200d \u00a0 \ue000 \U0001f468\u200d",
}
EXPRESSIONS = [
    "{{ yes }} {{ no }} {{ nothing }} {{ n }} {{ f }} {{ tiny }} {{ huge }} {{ third }} {{ missing }}|",
    "{{ list }} {{ nested }} {{ items }} {{ [] }} {{ {} }} {{ quoted }} {{ [quoted, uni] }}",
    "{{ nested | tojson }}",
    "{{ nested | tojson(indent=2) }}",
    "{{ tool | tojson(indent=4) }}",
    "{{ list | tojson }}",
    "{{ nested | tojson(ensure_ascii=True) }} {{ uni | tojson(true) }}",
    "{{ nested | tojson(separators=(',', ':')) }}",
    "{{ nested | tojson(sort_keys=True) }}",
    "{{ nested | tojson(indent=0) }}",
    "{{ [tiny, huge, f, third, 1e100, -0.0] | tojson }}",
    "{{ {'k': 1, 2: 'x'} | tojson }}",
    "{{ nothing | tojson }} {{ yes | tojson }} {{ s | tojson }}",
    "{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ s.upper() }}|{{ s.lower() }}|{{ s.title() }}|{{ s.strip().capitalize() }}",
    "{{ s.replace('l', 'L') }}|{{ s.replace('l', 'L', 1) }}|{{ s.split() }}|{{ s.split(',') }}|{{ s.split('l', 1) }}|{{ 'a--b--c'.split('--')[-1] }}",
    "{{ s.startswith(' H') }} {{ s.endswith(('x', ' ')) }} {{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('zz') }} {{ s.count('o') }}",
    "{{ ', '.join(['a', 'b']) }} {{ multi.splitlines() }} {{ 'x1'.isalnum() }} {{ '12'.isdigit() }} {{ empty.isdigit() }} {{ 'A1'.isupper() }} {{ '1'.islower() }}",
    "{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'a.txt'.removesuffix('.txt') }} {{ 'k=v=w'.partition('=') | list }} {{ 'k=v=w'.rpartition('=') | list }}",
    "{{ s[1:4] }} {{ s[::-1] }} {{ list[-1] }} {{ list[1:3] }} {{ s[-3:] }} {{ (list | length) - 1 }} {{ s | length }}",
    "{{ schema.items() | list | length }} {% for k, v in schema.items() %}{{ k }}={{ v }};{% endfor %} {{ schema['items'].type }} {{ schema.keys() | list }} {{ schema.get('type', 'x') }} {{ schema.get('zz', 'x') }} {{ schema.get('zz') }}",
    "{{ items | map(attribute='name') | list }} {{ items | selectattr('v', 'defined') | map(attribute='v') | join('+') }} {{ items | rejectattr('name', 'equalto', 'a') | list | length }} {{ list | reject('none') | list | length }}",
    "{{ list | first }} {{ list | last }} {{ [3, 1, 2] | sort }} {{ [1, 2] | sum }} {{ [1, 1, 2] | unique | list }} {{ nested | dictsort | first | first }} {{ nested | items | list | length }}",
    "{{ s | trim }}|{{ multi | indent(2) }}|{{ multi | indent(4, true) }}|{{ missing | default('d') }} {{ empty | default('d', true) }} {{ nothing | default('d') }}",
    "{{ n is string }} {{ s is string }} {{ nested is mapping }} {{ list is sequence }} {{ s is sequence }} {{ nested is sequence }} {{ s is iterable }} {{ n is iterable }} {{ yes is number }} {{ yes is integer }} {{ n is integer }} {{ f is float }} {{ yes is boolean }} {{ nothing is none }} {{ missing is defined }} {{ yes is true }} {{ n is odd }}",
    "{{ 'a' in 'abc' }} {{ 'b' not in nested }} {{ 1 in list }} {{ 'x' in missing }} {{ not missing }} {{ missing == none }} {{ n == 3.0 }} {{ 'a' < 'b' }}",
    "{{ 7 // 2 }} {{ neg // 2 }} {{ neg % 3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 10 }} {{ 1 + 2.5 }} {{ 'ab' * 3 }} {{ 'a' ~ 1 ~ none ~ true ~ 2.0 }} {{ [1] + [2] }}",
    "{{ 'yes' if n > 2 else 'no' }} {{ 'only' if no }}| {{ n and s.strip() or 'z' }} {{ not n }} {{ 1 < n <= 3 }}",
    "{% set ns = namespace(found=false, k=0) %}{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{% set ns.k = ns.k + i %}{% set ns.found = true %}{% endfor %}{{ ns.k }} {{ ns.found }}",
    "{% for i in list %}{{ loop.index }}/{{ loop.length }}{{ ' first' if loop.first }}{{ ' last' if loop.last }}{{ loop.previtem }}{{ loop.nextitem }};{% else %}none{% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %} {% for m in items if m.v is defined %}{{ m.name }}{{ loop.index0 }}{% endfor %}",
    "{% macro greet(name, mark='!') %}Hi {{ name }}{{ mark }}{% endmacro %}{{ greet('A') }} {{ greet('B', mark='?') }}",
    "{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% call wrap() %}in{% endcall %} {% set block %}cap {{ n }}{% endset %}{{ block | upper }} {% filter upper %}fil{% endfilter %}",
    "a\n  {% if yes %}\nb\n  {% endif %}\nc\n{% raw %}{{ raw }}{% endraw %} {# note #}\n  {#- trim -#}  \nd",
    "x  {%- if yes -%}  y  {%- endif -%}  z\n",
    "  {%+ if yes %}k{% endif %}\n\n",
    "A{% generation %}B{{ n }}{% endgeneration %}C {%- generation -%} D {%- endgeneration -%} E",
    "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }}",
    "{{ '%s is %d' | format('x', 4) }} {{ '{} {}'.format('a', 1) }}",
    "{{ n | string + 'x' }} {{ list | string }} {{ '3' | int + 1 }} {{ '2.5' | float }} {{ 3.7 | int }} {{ 2.567 | round(2) }} {{ neg | abs }} {{ [1, 2, 3] | max }}",
    "{{ dict(a=1, b='x') }} {{ range(3) | list }} {{ range(1, 8, 3) | list }} {{ [1, 2, 3, 4] | batch(2) | list }} {{ 'abc' | list }} {{ 'abc' | reverse }}",
    "{{ items[0].name }} {{ items[0]['name'] }} {{ items[0].zz }} {{ nested.b.x[1] }} {{ (1, 2)[0] }} {{ [[1, 2], [3]] | tojson }}",
    "{{ '<b>' }} {{ '<b>' | e }} {{ '<b>' | safe }} {{ \"a\\nb\\u00e9\" }} {{ 'it\\'s' }}",
    "{{ 'abc'.count('') }} {{ 'a'.replace('', 'b') }} {{ list | trim }} {{ nothing is iterable }} {{ nothing is string }}",
    "{{ raise_exception('Roles must alternate: ' ~ n) }}",
    "{{ missing.attr }}",
    "{{ none + 1 }}",
    "{{ missing + 'x' }}",
    "{{ s.nope() }}",
    "{{ missing | tojson }}",
]
