/** What the words of a `%%ring_kernel` or `%ring` line are. */
import words from './magics.json';

/** A `definition` is the kernel that a cell defines; `code` is left to Python's own highlighting. */
export type Kind = 'magic' | 'command' | 'option' | 'definition' | 'kernel' | 'string' | 'number' | 'value' | 'code';

export interface IToken {
  from: number;
  to: number;
  kind: Kind;
}

/** Nobody reads a longer line, but each key typed in it would be paid for. */
const LONGEST = 2000;
const CELL = /^\s*(%%ring_kernel)(?=\s|$)/;
/** At the start of a line, or after `name =`, which may also be `d["a=b"], *rest =`. */
const LINE = /^(\s*(?:(?:[^=#%"'\s]|[^\S\n]|"[^"]*"|'[^']*')+=\s*)?)(%ring)(?=\s|$)/;
/** Words as a shell splits them: quotes may be anywhere, the last one may lack its twin. */
const WORD = /(?:"(?:\\.|[^"\\])*"?|'[^']*'?|\\.|[^\s"'\\]|\\$)+/g;
const NUMBER = /^[-+]?\d+(\.\d*)?(e[-+]?\d+)?$/i;
const INSTANCE = /\[-?\d+\]$/;

const FLAGS = new Set(words.flags);
const COMMANDS = new Map(Object.entries(words.commands) as [string, Kind[]][]);

/** The words of a `%%ring_kernel` line; none if it is another one. */
export function ofCell(text: string): IToken[] {
  const found = text.length > LONGEST ? null : CELL.exec(text);
  if (!found) {
    return [];
  }
  const to = found[0].length;
  return [{ from: to - found[1]!.length, to, kind: 'magic' }, ...rest(text, to, ['definition', 'value'])];
}

/** The words of a `%ring` line; none if it is another one. */
export function ofLine(text: string): IToken[] {
  const found = text.length > LONGEST || !text.includes('%ring') ? null : LINE.exec(text);
  if (!found) {
    return [];
  }
  const from = found[1]!.length;
  const to = found[0].length;
  const tokens: IToken[] = [{ from, to, kind: 'magic' }];
  WORD.lastIndex = to;
  const command = WORD.exec(text);
  if (!command) {
    return tokens;
  }
  const kinds = COMMANDS.get(command[0]);
  const end = command.index + command[0].length;
  if (kinds) {
    tokens.push({ from: command.index, to: end, kind: 'command' });
    tokens.push(...rest(text, end, kinds));
  }
  return tokens;
}

/** Options, their values, and what stands between them; the last kind is that of all further words. */
function rest(text: string, from: number, kinds: readonly Kind[]): IToken[] {
  const tokens: IToken[] = [];
  let place = 0;
  let valued = false; // the word before was an option that takes a value
  WORD.lastIndex = from;
  for (let found = WORD.exec(text); found; found = WORD.exec(text)) {
    const word = found[0];
    const start = found.index;
    const end = start + word.length;
    const kind = kinds[Math.min(place, kinds.length - 1)] ?? 'value';
    if (!valued && kind === 'code') {
      tokens.push({ from: start, to: text.trimEnd().length, kind });
      break;
    }
    if (valued) {
      tokens.push({ from: start, to: end, kind: value(word) });
      valued = false;
    } else if (word.startsWith('--')) {
      const equals = word.indexOf('=');
      const name = equals < 0 ? word : word.slice(0, equals);
      tokens.push({ from: start, to: start + name.length, kind: 'option' });
      if (equals >= 0 && equals + 1 < word.length) {
        tokens.push({ from: start + equals + 1, to: end, kind: value(word.slice(equals + 1)) });
      }
      valued = equals < 0 && !FLAGS.has(name);
    } else {
      const instance = kind === 'kernel' ? INSTANCE.exec(word) : null;
      tokens.push({ from: start, to: end - (instance?.[0].length ?? 0), kind: kind === 'value' ? value(word) : kind });
      place += 1;
    }
  }
  return tokens;
}

function value(word: string): Kind {
  return NUMBER.test(word) ? 'number' : /^["']/.test(word) ? 'string' : 'value';
}
