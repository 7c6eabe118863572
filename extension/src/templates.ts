/** Ring kernels to begin with: cells that run as they stand, inserted below the active one. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';

import { icon } from './icon';

const WORDS = {
  async: { label: 'Async', caption: 'An async function that takes messages, with any Python in it' },
  compiled: { label: 'Compiled', caption: 'A step compiled to machine code, for millions of messages a second' },
  gpu: { label: 'GPU', caption: 'A step that stays on the GPU; without one, the CPU runs it' }
} as const;

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
          const { insert } = await import('./cells'); // fetched when it is asked for
          if (panel && !panel.isDisposed) {
            insert(panel, name);
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
