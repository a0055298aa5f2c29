"""The final answer of a response, by hand."""

import time
from fractions import Fraction

import pytest

from jaxdistill import rewards

# What is marked as the answer.
MARKED = [
  *((r'\boxed{12}', '12'), (r'So it is \boxed{12}.', '12')),
  *((r'\boxed{ -3 }', '-3'), (r'\boxed{−3}', '-3'), (r'\boxed{+5}', '+5')),
  *((r'\boxed{0.50}', '0.50'), (r'\boxed{.5}', '.5'), (r'\boxed{12.}', '12')),
  *((r'\boxed{\frac{3}{4}}', '3/4'), (r'\boxed{\dfrac{3}{4}}', '3/4')),
  *((r'\boxed{-\frac{1}{2}}', '-1/2'), (r'\boxed{\frac{-1}{2}}', '-1/2')),
  *((r'\boxed{\frac{1}{-2}}', '-1/2'), (r'\boxed{\frac12}', '1/2')),
  *((r'\boxed{\tfrac 3 4}', '3/4'), (r'\boxed{3/4}', '3/4')),
  *((r'\boxed{1\frac{1}{2}}', '3/2'), (r'\boxed{-1 \frac{1}{2}}', '-3/2')),
  *((r'\boxed{1,024}', '1024'), (r'\boxed{1{,}024}', '1024')),
  *((r'\boxed{1\,024}', '1024'), (r'\boxed{1,024,000.5}', '1024000.5')),
  *((r'\boxed{\$12}', '12'), (r'\boxed{$12$}', '12'), (r'\boxed{-\$5}', '-5')),
  *(
    (r'\boxed{50\%}', '50%'),
    (r'\boxed{50 \%}', '50%'),
    (r'\boxed{50%}', '50%'),
  ),
  *((r'\boxed{12\text{ cm}}', '12'), (r'\boxed{12~\text{m}^2}', '12')),
  *((r'\boxed{5\ \mathrm{km/h}}', '5'), (r'\boxed{5 apples}', '5')),
  *((r'\boxed{90^\circ}', '90'), (r'\boxed{90^{\circ}}', '90')),
  *((r'\boxed{**12**}', '12'), (r'\boxed{\textbf{12}}', '12')),
  *((r'\boxed{\left(\frac{1}{2}\right)}', '1/2'), (r'\boxed{{12}}', '12')),
  *((r'\boxed{x = 3}', '3'), (r'\boxed{x = -\frac{7}{2}}', '-7/2')),
  *((r'\boxed{\theta = 3}', '3'), (r'\boxed{347 + 582 = 929}', '929')),
  *((r'\boxed{1} or \boxed{2}', '2'), (r'\boxed{\boxed{3}}', '3')),
  *((r'\boxed{7} and \boxed{}', '7'), (r'\boxed{7} and \boxed{8', '7')),
  *((r'} { \boxed{7}', '7'), (r'\boxed {7}', '7'), ('\\boxed{\n7\n}', '7')),
  *((r'\boxed{5}, so 6', '5'), (r'\boxed{5} <answer>6</answer>', '5')),
  *(('<answer>5</answer>', '5'), ('<ANSWER> 5 apples </ANSWER>. 6', '5')),
  *(('<answer>5</answer><answer>1/2</answer>', '1/2'),),
  *(('<answer>5</answer> <answer> </answer>', '5'),),
  *(('<answer>5</answer> #### 6', '5'), ('<answer>$1,024$</answer>', '1024')),
  *(('Add.\n#### 1,024', '1024'), ('#### 1\n#### -3\n', '-3')),
  *(('#### 5\nThat took 3 steps.', '5'), ('#### $12', '12')),
]
# Marked, and no number: plain text.
MARKED_TEXT = [
  *((r'\boxed{x=3, y=4}', 'x=3, y=4'), (r'\boxed{\text{yes}}', 'yes')),
  *((r'\boxed{x^2 + 1}', 'x^2 + 1'), (r'\boxed{5x}', '5x')),
  *((r'\boxed{(1, 2)}', '(1, 2)'), (r'\boxed{3\pi}', r'3\pi')),
  *((r'\boxed{y = 2x}', '2x'), (r'\boxed{x + y = 3}', 'x + y = 3')),
  *((r'\boxed{\frac{x+1}{2}}', '(x+1)/2'), (r'\boxed{5 or 6}', '5 or 6')),
  *((r'\boxed{5 apples and 3 pears}', '5 apples and 3 pears'),),
  *((r'\boxed{3 million}', '3 million'), (r'\boxed{1, 2}', '1, 2')),
  *((r'\boxed{\{1\}}', r'\{1\}'), ('<answer>no</answer> 7', 'no')),
  *(('It is 3.\n#### yes', 'yes'),),
]
# Nothing is marked: the last number.
UNMARKED = [
  *(('It is 42.', '42'), ('1 and 2, so 3', '3'), ('**12**', '12')),
  *(('**Answer:** 12', '12'), ('Answer:**-4**', '-4'), ('=12!', '12')),
  *(('-3', '-3'), ('it is −3.', '-3'), ('x=-3', '-3'), ('3-5', '5')),
  *(('10-3=7', '7'), ('5 - 3', '3'), ('from 3 to -2,', '-2')),
  *(('1,024', '1024'), ('1,024,000.50 dollars', '1024000.50')),
  *(('1,2,3', '3'), ('0.5', '0.5'), ('.5', '.5'), ('it is .5', '.5')),
  *(('3/4', '3/4'), ('so 3/4.', '3/4'), ('1 1/2 cups', '3/2')),
  *(('50%', '50%'), ('50 % of it', '50%'), (r'50\%', '50%')),
  *(('$12', '12'), (r'\$12.', '12'), ('-$5', '-5'), ('$-5', '-5')),
  *((r'It is $\frac{3}{4}$.', '3/4'), (r'\(x = -7\)', '-7')),
  *(('7 cats on 2024-05-12', '7'), ('7 cats on 12/05/2024', '7')),
  *(('7 cats at 10:30', '7'), ('7 cats of v1.2.3', '7')),
  *(('7 atoms of H2O', '7'), ('7, he came 3rd', '7'), ('7 cm^2', '7')),
  *(('12kg', '12'), ('007', '007'), ('2^3 = 8', '8')),
  *(('#### Step 2: add\nso it is 12.', '12'), ('#### 12 apples', '12')),
  *((r'\boxed{} 7', '7'), (r'\boxed{7', '7'), ('</answer> 7 <answer>', '7')),
]


@pytest.mark.parametrize(('text', 'answer'), MARKED + UNMARKED)
def test_final_answers_that_are_numbers(text, answer):
  found = rewards.final_answer(text)
  assert found == answer
  assert rewards.number(found) is not None


@pytest.mark.parametrize(('text', 'answer'), MARKED_TEXT)
def test_final_answers_that_are_not(text, answer):
  assert rewards.final_answer(text) == answer
  assert rewards.number(answer) is None


@pytest.mark.parametrize(
  'text',
  [
    *('', 'none', '-', 'x2', '2024-05-12', '10:30', r'\boxed{}', '####', '²'),
    *('<answer></answer>', r'\boxed{ }', '}{', '#### Step\nadd'),
  ],
)
def test_no_answer(text):
  assert rewards.final_answer(text) is None


def test_only_marked_answers():
  for text, answer in MARKED + MARKED_TEXT:
    assert rewards.marked_answer(text) == answer
  assert rewards.marked_answer('It is 42.') is None


def test_a_tag_s_content_as_it_is():
  text = '<answer>1 2\n3 4</answer> and <answer>\n1, 024 $x\n 5 </answer> 6'
  assert rewards.tagged(text) == '1, 024 $x\n 5'
  assert rewards.tagged('<answer>1') is None


@pytest.mark.parametrize('text', ['−3', ' −3 ', '-3', '−3.0', '−1,003/1'])
def test_a_minus_is_a_minus(text):
  expected = None if ',' in text else Fraction(-3)
  assert rewards.number(text) == expected


def test_different_spellings_vote_together():
  texts = [
    *('It is 0.5.', r'\boxed{1/2}', '<answer>50%</answer>', '#### .50'),
    *(r'\boxed{\frac{2}{4}}', r'x = \boxed{50\%}', r'\boxed{x = 0.5}', 'no'),
    r'\boxed{5}',
  ]
  found = rewards.majority([rewards.final_answer(text) for text in texts])
  assert rewards.number(found.answer) == Fraction(1, 2)
  assert found.agrees_G == (True,) * 7 + (False,) * 2


N = 100_000
LONG = {
  'open boxes': r'\boxed{' * (N // 7),
  'nested boxes': r'\boxed{1' * (N // 9) + '}' * (N // 9),
  'box and spaces': r'\boxed' + ' ' * N,
  'braces': r'\boxed{' + '{' * (N // 2) + '1' + '}' * (N // 2) + '}',
  'digits in a box': r'\boxed{' + '1' * N + '}',
  'words in a box': r'\boxed{1 ' + 'a ' * (N // 2) + '1}',
  'signs in a box': r'\boxed{' + '=' * N + '}',
  'open tags': '<answer>' * (N // 8),
  'hashes': '#' * N,
  'headings': '#### 1\n' * (N // 7),
  'digits': '1' * N + 'x',
  'groups': '1' + ',000' * (N // 4) + '0',
  'dates': '1-' * (N // 2),
  'dots': '1.' * (N // 2),
  'slashes': '1/' * (N // 2),
  'mixed': '1 1/' * (N // 4),
  'open fractions': r'\frac{' * (N // 6),
  'half fractions': r'\frac{1} ' * (N // 9),
  'texts': r'\text{' * (N // 6),
  'spaces': '1' + ' ' * N,
  'percents': '1' + ' %' * (N // 2),
  'letters': 'a' * N,
  'minus': '-' * N,
  'backslashes': '\\' * N,
  'powers': '^{' * (N // 2),
}


@pytest.mark.parametrize('name', LONG)
def test_time_grows_with_the_text_and_no_faster(name):
  begin = time.perf_counter()
  rewards.final_answer(LONG[name])
  # About .05 s; were it quadratic it would be minutes.
  assert time.perf_counter() - begin < 20
