"""Chat templates: what they write, and what they are kept from."""

import time

import pytest
from toy_tokenizers import HEADERS

from jaxdistill.data.text import chat


def render(template, content=' hi '):
  return chat.render(
    template,
    [{'role': 'user', 'content': content}],
    bos='<s>',
    eos=None,
    add_generation_prompt=True,
    source='DIR',
  )


MILLION = "{% set a = 'x' * 1000000 %}"
NESTED = '{% set a = 1 %}' + '{% set a = [a, a] %}' * 60
LIST = '{% set a = range(99999) | list %}'


@pytest.mark.parametrize(
  ('template', 'text'),
  [
    ('{{ bos_token }}|{{ eos_token }}|{{ tools is none }}', '<s>||True'),
    ("  {% if add_generation_prompt %}\nyes{% endif %}\n", 'yes'),
    ("{{ {'a': '<b>&é'} | tojson }}", '{"a": "<b>&é"}'),
    ("{{ [1, {'b': none}] | tojson(indent=1) }}",
     '[\n 1,\n {\n  "b": null\n }\n]'),
    ("{{ strftime_now('%d %b %Y') }}", '26 Jul 2024'),
    ("{{ strftime_now('%Y-%m-%d') }}", '2024-07-26'),
    ('{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}'
     '{% endfor %}', '012'),
    ('{% generation %}{{ messages[0].content }}{% endgeneration %}', ' hi '),
    ('{% set ns = namespace(n=1) %}{% for m in messages %}'
     '{% set ns.n = ns.n + loop.length * 2 %}{% endfor %}{{ ns.n }}', '3'),
    ('{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) ~ f(2) }}', '<1><2>'),
    ("{{ messages[0]['content'].split('i')[0].strip() | upper }}", 'H'),
    ('{{ messages[0].content[::-1] | trim }}', 'ih'),
    ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
     '1'),
    ("{{ 'abab'.replace('a', 'x') ~ ['p', 'q'] | join('-') }}", 'xbxbp-q'),
    (MILLION + '{{ a[1:] | length }}', '999999'),
    (LIST + '{{ -1 in a }}{{ a.count(-1) }}{{ a | length }}', 'False099999'),
    ("{{ nothing }}{{ 'a' if nothing is not defined and 'h' in "
     'messages[0].content and 1 < 2 <= 2 }}', 'a'),
  ],
)  # fmt: skip
def test_render(template, text):
  assert render(template) == text


@pytest.mark.parametrize(
  ('template', 'says'),
  [
    ("{% include '/etc/passwd' %}", 'no loader'),
    ("{% import '/etc/passwd' as x %}", 'no loader'),
    ("{% extends '/etc/passwd' %}", 'no loader'),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", 'unsafe'),
    ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", 'unsafe'),
    ("{{ namespace.__init__.__globals__['os'] }}", 'unsafe'),
    ('{{ raise_exception.__globals__.json }}', 'unsafe'),
    ("{{ '' | attr('__class__') }}", "filter 'attr'"),
    ('{{ messages.append(1) }}', 'unsafe'),
    ('{{ nothing.more }}', "'nothing' is undefined"),
    ("{{ raise_exception('not\nthis') }}", 'not'),
    ('{% for x in none %}{% endfor %}', 'not iterable'),
    ('{{ 1 / 0 }}', 'division'),
    ('x\n{% if %}', 'line 2: '),
    ("{{ 'x' * 10 ** 10 }}", r'\*\* is refused'),
    ("{{ 'x' * 10000000000 }}", 'runs on'),
    ('{{ 10000000000 * [1] }}', 'runs on'),
    ('{{ (' + ' * '.join(['9999999999'] * 9) + ') }}', 'too large'),
    ("{{ '%1000000000d' % 1 }}", '% is refused'),
    ("{{ '{:1000000000}'.format(1) }}", 'unsafe'),
    ("{{ 'x'['center'](1000000000) }}", 'unsafe'),
    ("{{ 'x' | center(1000000000) }}", "filter 'center'"),
    ('{{ (1).to_bytes(1000000000) }}', 'unsafe'),
    ("{{ strftime_now('%1000000000d') }}", 'date format'),
    ('{{ [1] | tojson(indent=1000000000) }}', 'indent'),
    (MILLION + "{{ a.replace('x', a) }}", 'runs on'),
    (MILLION + "{{ a | replace('x', a) }}", 'runs on'),
    (MILLION + "{{ a.join('x' * 99999) }}", 'runs on'),
    (MILLION + "{{ (a | safe).replace('x', a) }}", 'runs on'),
    (MILLION + "{{ a | replace(new=a, old='x') }}", 'runs on'),
    (MILLION + '{{ range(99999) | join(a) }}', 'runs on'),
    (MILLION + '{{ range(999) | map("string") | join(a) }}', 'runs on'),
    (MILLION + '{{ a.join(range(999) | map("string")) }}', 'runs on'),
    (MILLION + '{% set b = a[1:] %}' * 99, 'runs on'),
    (MILLION + '{{ a }}' * 99, 'runs on'),
    (MILLION + '{% set a = a + a %}' * 60, 'runs on'),
    (MILLION + '{% set a = a ~ a %}' * 60, 'runs on'),
    (MILLION + '{% set a %}{{ a }}{{ a }}{% endset %}' * 60, 'runs on'),
    (LIST + '{% set a = [a] %}' * 500 + '{{ a | tojson(indent=8) }}', 'runs'),
    ('x' * 100001, 'too long'),
    (NESTED + '{{ a }}', 'runs on'),
    (NESTED + '{{ a | tojson }}', 'runs on'),
    ('{% set a = namespace() %}{% set a.b = [a] %}{{ a }}', 'runs on'),
    (LIST + "{{ a | select('in', a) | list }}", 'runs on'),
    (LIST + '{{ -1 in a }}' * 2000, 'runs on'),
    (LIST + '{{ a.count(-1) }}' * 2000, 'runs on'),
    ('{% for i in range(99999) %}' * 4 + '{% endfor %}' * 4, 'runs on'),
    ('{% for i in range(99999) %}' + 'x' * 9999 + '{% endfor %}', 'runs on'),
    ('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'recursion'),
    ('{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}'
     '{% endmacro %}{{ f(99) }}{#' + ' ' * 999 + '#}', 'runs on'),
    ('{{ ' + '(' * 9999 + ')' * 9999 + ' }}', ''),
  ],
)  # fmt: skip
def test_a_template_is_held_to_its_limits(template, says):
  start = time.thread_time()
  with pytest.raises(ValueError, match=f'^chat template of DIR: .*{says}') as e:
    render(template)
  assert '\n' not in str(e.value)
  assert time.thread_time() - start < 4


def test_a_template_is_held_to_its_time(monkeypatch):
  template = '{% for i in range(99) %}{{ i }}{% endfor %}'
  assert render(template).endswith('98')
  monkeypatch.setattr(chat, 'SECONDS', 0.0)
  with pytest.raises(ValueError, match='runs on'):
    render(template)


def test_the_limits_are_wide():
  """A long question and many turns are no attack."""
  text = 'a line of a long problem\n' * 4000
  shown = chat.render(
    HEADERS,
    [{'role': 'user', 'content': 'x'}] * 500 + [{'role': 'u', 'content': text}],
    bos='<s>',
    eos='</s>',
    add_generation_prompt=True,
    source='DIR',
  )
  assert text.strip() in shown
  assert shown.count('<|eot_id|>') == 501
