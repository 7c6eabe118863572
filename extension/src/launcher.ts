/** A notebook with a ring kernel in it, from the launcher, the palette and the menu File, New. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, showErrorMessage } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { LabIcon } from '@jupyterlab/ui-components';

const COMMAND = 'pydotcompute:new-notebook';
const KERNEL = 'python3';

/** The ring of the side bar, in colours that stand out from light and from dark. */
const icon = new LabIcon({
  name: 'pydotcompute:notebook',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <path fill="#3b82f6" d="M12 3a9 9 0 1 0 9 9h-2.6a6.4 6.4 0 1 1-6.4-6.4z"/>
  <circle fill="#f59e0b" cx="18.4" cy="5.6" r="3.2"/>
</svg>`
});

/** Cards of this category show a picture by its address, or else a letter. */
const PICTURE = `data:image/svg+xml,${encodeURIComponent(icon.svgstr)}`;

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'pydotcompute:launcher',
  description: 'Makes a notebook with a ring kernel in it.',
  autoStart: true,
  optional: [ILauncher, ICommandPalette, IDefaultFileBrowser],
  activate: (
    { commands, serviceManager }: JupyterFrontEnd,
    launcher: ILauncher | null,
    palette: ICommandPalette | null,
    browser: IDefaultFileBrowser | null
  ) => {
    const { contents, kernelspecs } = serviceManager;
    const spec = (): { display_name: string; language: string } | undefined =>
      kernelspecs.specs?.kernelspecs[KERNEL] ?? undefined;

    commands.addCommand(COMMAND, {
      label: ({ isMenu, isPalette }) =>
        isMenu ? 'Actor Notebook' : isPalette ? 'New Actor Notebook' : 'New actor notebook',
      caption: 'Make a notebook with a ring kernel in it, and the live view of it',
      icon,
      isEnabled: () => spec() !== undefined,
      execute: async ({ cwd }) => {
        const path = typeof cwd === 'string' ? cwd : (browser?.model.path ?? '');
        const { display_name, language } = spec()!;
        try {
          const { save } = await import('./cells'); // fetched when it is asked for
          const made = await save(contents, path, { display_name, language, name: KERNEL });
          return await commands.execute('docmanager:open', { path: made, factory: 'Notebook' });
        } catch (error) {
          await showErrorMessage('The notebook cannot be made', error as Error);
          return null;
        }
      }
    });
    palette?.addItem({ command: COMMAND, category: 'Ring kernels', args: { isPalette: true } });

    let card: { dispose(): void } | null = null;
    const follow = (): void => {
      commands.notifyCommandChanged(COMMAND);
      if (!spec()) {
        card?.dispose();
        card = null;
      } else if (launcher && !card) {
        card = launcher.add({ command: COMMAND, category: 'Notebook', rank: 100, kernelIconUrl: PICTURE });
      }
    };
    kernelspecs.specsChanged.connect(follow);
    follow();
  }
};

export default plugin;
