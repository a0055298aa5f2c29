"""Chat templates of model directories: Jinja, in a sandbox and with limits.

A template comes with a model, so it is a stranger's program. It reads what it
is given and no file, no attribute of Python and no clock; and whatever it
makes or passes on is weighed, so that it can neither run on nor fill the
memory.
"""

import datetime
import functools
import json
import re
import time
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

LONGEST = 10**5  # characters of a template
MOST = 10**7  # characters that one rendering may handle, loop turns included
SECONDS = 5.0  # of computing that one rendering may take
_ITEM = 16  # what any value weighs besides its characters

# The date that templates of Llama 3 fall back on. Others ask for today's; but
# prompts, and so runs, must not depend on the day.
_TODAY = datetime.datetime(2024, 7, 26)

_FILTERS = (
  *('abs', 'capitalize', 'count', 'd', 'default', 'dictsort', 'escape'),
  *('first', 'float', 'int', 'items', 'last', 'length', 'list', 'lower'),
  *('map', 'max', 'min', 'reject', 'rejectattr', 'reverse', 'safe', 'select'),
  *('selectattr', 'sort', 'string', 'title', 'trim', 'unique', 'upper'),
)
_METHODS = (
  *('capitalize', 'count', 'endswith', 'find', 'index', 'isalnum', 'isalpha'),
  *('isdigit', 'islower', 'isspace', 'isupper', 'join', 'lower', 'lstrip'),
  *('partition', 'removeprefix', 'removesuffix', 'replace', 'rfind', 'rindex'),
  *('rpartition', 'rsplit', 'rstrip', 'split', 'splitlines', 'startswith'),
  *('strip', 'title', 'upper'),
)


def render(
  template: str,
  messages: Sequence[Mapping[str, str]],
  *,
  bos: str | None,
  eos: str | None,
  add_generation_prompt: bool,
  source: str,
  think: bool = False,
) -> str:
  """The text of a dialogue.

  Args:
    template: Jinja, as it comes with a model.
    messages: Each with a `role` and its `content`.
    bos: The begin mark, if the model has one.
    eos: The end mark, likewise.
    add_generation_prompt: Whether an answer is to follow.
    source: The model's directory, named in what is raised.
    think: Whether a model that can think before it answers is asked to
      (`enable_thinking`, as Qwen3's template calls it).

  Raises:
    ValueError: The template is broken, does what it may not, or takes more
      than `LONGEST`, `MOST` or `SECONDS`.
  """
  marks = {'bos_token': bos, 'eos_token': eos}
  try:
    if len(template) > LONGEST:
      raise SecurityError('it is too long')
    environment, compiled = _compiled(template)
    environment.begin(len(template))
    return compiled.render(
      {k: v for k, v in marks.items() if v is not None},
      messages=[dict(m) for m in messages],
      tools=None,
      documents=None,
      add_generation_prompt=add_generation_prompt,
      enable_thinking=think,
    )
  except Exception as e:  # anything may be wrong in it
    line = f'line {e.lineno}: ' if isinstance(e, TemplateSyntaxError) else ''
    what = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
    raise ValueError(f'chat template of {source}: {line}{what}') from None


@functools.lru_cache(maxsize=8)
def _compiled(template: str):
  environment = _Environment(len(template))
  return environment, environment.from_string(template)


class _Environment(ImmutableSandboxedEnvironment):
  """Counts what a template handles.

  Loop turns, and calls of what may be a macro, weigh as much as the whole
  template, since they may print all of it again.
  """

  intercepted_binops = frozenset({'+', '*', '**', '%'})

  def __init__(self, size: int):
    self.begin(size)
    super().__init__(
      trim_blocks=True,
      lstrip_blocks=True,
      extensions=['jinja2.ext.loopcontrols', _Generation],
      finalize=self._pass,
    )
    self.code_generator_class = _Metered
    own = {
      'join': self._join,
      'replace': self._replace,
      'tojson': self._to_json,
    }
    known, allowed = self.filters | own, (*_FILTERS, *own)
    self.filters = {
      name: self._filter(name, f) if name in allowed else _refused(name)
      for name, f in known.items()
    } | {'*turns': self._turns, '*pass': self._pass, '*joined': self._joined}
    self.tests = {name: self._filter(name, f) for name, f in self.tests.items()}
    self.globals = {
      'dict': lambda *args, **kwargs: dict(*args, **kwargs),
      'namespace': Namespace,
      'range': self.globals['range'],
      'raise_exception': _raise,
      'strftime_now': _strftime_now,
    }

  def begin(self, size: int) -> None:
    self.size, self.left = size, MOST
    self.end = time.thread_time() + SECONDS

  def call_binop(self, context, operator, left, right):
    if operator == '**' or (operator == '%' and isinstance(left, str)):
      raise SecurityError(f'{operator} is refused')
    if operator == '*':
      for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int):
          item = 1 if isinstance(many, str) else _ITEM
          self._spend(item * len(many) * max(times, 0))
    return self._pass(super().call_binop(context, operator, left, right))

  def call(__self, __context, __obj, *args, **kwargs):
    self = __self
    owner = getattr(__obj, '__self__', None)
    self._pass([owner, args, kwargs])
    if isinstance(owner, str) and __obj.__name__ == 'join':
      args = tuple(map(list, args))
      self._spend(len(owner) * sum(map(len, args)))
    elif isinstance(owner, str) and __obj.__name__ == 'replace':
      self._spend(owner.count(args[0]) * len(args[1]))
    elif not isinstance(__obj, types.BuiltinFunctionType):
      self._spend(self.size)
    return self._pass(super().call(__context, __obj, *args, **kwargs))

  def is_safe_attribute(self, obj, attr, value):
    if isinstance(obj, str | bytes | int | float) and attr not in _METHODS:
      return False
    return super().is_safe_attribute(obj, attr, value)

  def wrap_str_format(self, value):
    return None  # so that `format` is looked up in `_METHODS` too

  def _filter(self, name, function):
    @functools.wraps(function)
    def metered(*args, **kwargs):
      self._pass([args, kwargs])
      return self._pass(function(*args, **kwargs))

    return metered

  # What can be as large as a product of sizes is counted beforehand.

  def _join(self, items, d=''):
    words = list(map(str, self._pass(list(items))))
    self._spend(len(words) * len(str(d)))
    return str(d).join(words)

  def _replace(self, text, old, new, count=-1):
    text, old, new = str(text), str(old), str(new)
    self._spend(text.count(old) * len(new))
    return text.replace(old, new, count)

  def _to_json(
    self,
    value,
    ensure_ascii=False,
    indent=None,
    separators=None,
    sort_keys=False,
  ):
    """As in transformers: nothing is escaped for HTML."""
    if indent not in (None, *range(9)):
      raise SecurityError(f'an indent of {indent!r} is refused')
    encoder = json.JSONEncoder(
      ensure_ascii=ensure_ascii,
      indent=indent,
      separators=separators,
      sort_keys=sort_keys,
    )
    return ''.join(map(self._pass, encoder.iterencode(value)))

  def _turns(self, items):
    for item in items:
      self._spend(self.size)
      yield item

  def _joined(self, items: list) -> str:
    self._pass(items)
    return self._pass(''.join(map(str, items)))

  def _pass(self, value: Any) -> Any:
    self._spend(self._weight(value))
    return value

  def _spend(self, amount: int) -> None:
    self.left -= amount
    if self.left < 0 or time.thread_time() > self.end:
      raise SecurityError('it runs on, or makes too much text')

  def _weight(self, value: Any) -> int:
    """Characters of a value when it is written out."""
    out, todo = 0, [value]
    while todo:
      value = todo.pop()
      out += _ITEM
      if isinstance(value, Namespace):
        value = object.__getattribute__(value, '_Namespace__attrs')
      if isinstance(value, str | bytes):
        out += len(value)
      elif isinstance(value, int) and value.bit_length() > 64:
        raise SecurityError('a number is too large')
      elif isinstance(value, dict):
        todo += [*value, *value.values()]
      elif isinstance(value, Collection) and not isinstance(value, Context):
        todo += value
      if out > self.left:  # lists of lists of lists, or one inside itself
        break
    return out


class _Metered(CodeGenerator):
  def visit_Template(self, node, frame=None):
    super().visit_Template(_Meter().visit(node), frame)


class _Meter(NodeTransformer):
  """Wraps what has no hook: loops, `~`, slices and comparisons."""

  def visit_For(self, node):
    self.generic_visit(node)
    node.iter = _through('*turns', node.iter)
    return node

  def visit_Concat(self, node):
    self.generic_visit(node)
    return _through('*joined', nodes.List(node.nodes, lineno=node.lineno))

  def visit_Getitem(self, node):
    self.generic_visit(node)
    sliced = isinstance(node.arg, nodes.Slice)
    return _through('*pass', node) if sliced else node

  def visit_Operand(self, node):
    self.generic_visit(node)
    node.expr = _through('*pass', node.expr)
    return node


def _through(name: str, node: nodes.Expr) -> nodes.Expr:
  out = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
  if node.environment is not None:
    out.set_environment(node.environment)
  return out


class _Generation(Extension):
  """`{% generation %}`, which marks what is trained on, changes no text."""

  tags = {'generation'}  # noqa: RUF012

  def parse(self, parser):
    next(parser.stream)
    return parser.parse_statements(('name:endgeneration',), drop_needle=True)


def _raise(message):
  raise TemplateError(message)


def _refused(name: str):
  def refuse(*args, **kwargs):
    raise SecurityError(f'the filter {name!r} is refused')

  return refuse


def _strftime_now(form: str) -> str:
  if not re.fullmatch(r'([^%]|%[a-zA-Z%])*', form):
    raise SecurityError(f'the date format {form!r} is refused')
  return _TODAY.strftime(form)
