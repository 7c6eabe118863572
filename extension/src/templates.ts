/** Ring kernels to begin with: cells that run as they stand, inserted below the active one. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';

import { icon } from './icon';
import type templates from './templates.json';

const WORDS = {
  async: { label: 'Async', caption: 'An async function that takes messages, with any Python in it' },
  compiled: { label: 'Compiled', caption: 'A step compiled to machine code, for millions of messages a second' },
  gpu: { label: 'GPU', caption: 'A step that stays on the GPU; without one, the CPU runs it' }
} as const;
const LOAD = '%load_ext pydotcompute';

/** The sources of a template's cells; fetched when they are asked for. */
export async function sources(name: keyof typeof templates): Promise<string[]> {
  const { default: all } = await import('./templates.json');
  return all[name].map(lines => lines.join('\n'));
}

function insert({ content, context }: NotebookPanel, template: string[]): void {
  const notebook = context.model.sharedModel;
  const above = content.activeCell?.model.sharedModel ?? null;
  const loaded = notebook.cells.some(cell => cell.getSource().split('\n').includes(LOAD));
  const added = template.filter(source => !(loaded && source === LOAD));
  const empty = notebook.cells.length === 1 && !notebook.cells[0]!.getSource().trim();
  const at = empty ? 0 : above ? notebook.cells.indexOf(above) + 1 : notebook.cells.length;
  // One change, which one "Undo Cell Operation" takes back.
  notebook.transact(() => {
    if (empty) {
      notebook.deleteCell(0);
    }
    notebook.insertCells(
      at,
      added.map(source => ({ cell_type: 'code', source, metadata: { trusted: true } }))
    );
  });
  content.deselectAll();
  content.mode = 'command';
  content.activeCellIndex = at;
  void content.scrollToItem(at, 'smart');
  content.activate();
}

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'pydotcompute:templates',
  description: 'Inserts ring kernels into the notebook in front.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ICommandPalette],
  activate: ({ commands, shell }: JupyterFrontEnd, notebooks: INotebookTracker, palette: ICommandPalette | null) => {
    const front = (): NotebookPanel | null => {
      const panel = notebooks.currentWidget;
      const model = panel?.context.model;
      const takes = panel === shell.currentWidget && model && !model.readOnly;
      return takes && ['', 'python'].includes(model.defaultKernelLanguage.toLowerCase()) ? panel : null;
    };
    const added: string[] = [];
    for (const name of Object.keys(WORDS) as (keyof typeof WORDS)[]) {
      const command = `pydotcompute:insert-${name}`;
      added.push(command);
      commands.addCommand(command, {
        label: ({ isMenu }) => (isMenu ? WORDS[name].label : `Insert ${WORDS[name].label} Ring Kernel`),
        caption: WORDS[name].caption,
        icon: ({ isPalette }) => (isPalette ? icon : undefined),
        isEnabled: () => front() !== null,
        execute: async () => {
          const panel = front();
          const template = await sources(name);
          if (panel && !panel.isDisposed) {
            insert(panel, template);
          }
        }
      });
      palette?.addItem({ command, category: 'Ring kernels', args: { isPalette: true } });
    }
    const changed = (): void => added.forEach(command => commands.notifyCommandChanged(command));
    notebooks.currentChanged.connect(changed);
    shell.currentChanged?.connect(changed);
  }
};

export default plugin;
