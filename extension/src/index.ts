/** What JupyterLab gets: each plugin puts one part in its place, and does nothing else. */
import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { IConsoleTracker } from '@jupyterlab/console';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';

import { addBadges } from './badges';
import highlight from './highlight';
import { icon } from './icon';
import launcher from './launcher';
import { ACTS } from './look';
import { Model } from './model';
import { Side } from './side';
import { addPictures } from './pictures';
import { type IKernelRef, VERBS, VIEWS } from './protocol';
import { Status } from './status';
import { addTabs } from './tabs';
import templates from './templates';
import { type IModel, IRingKernels, type ISource } from './tokens';
import { track } from './tracker';

const CATEGORY = 'Ring kernels';
const SHOW = 'pydotcompute:show-panel';

const kernels: JupyterFrontEndPlugin<IModel> = {
  id: 'pydotcompute:kernels',
  description: 'Knows the ring kernels of the notebooks that are open.',
  autoStart: true,
  provides: IRingKernels,
  requires: [INotebookTracker],
  optional: [IConsoleTracker],
  activate: (app: JupyterFrontEnd, notebooks: INotebookTracker, consoles: IConsoleTracker | null) => {
    const model = new Model();
    track(model, app, notebooks, consoles);
    return model;
  }
};

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'pydotcompute:plugin',
  description: 'Shows them: the side bar, tabs, badges on cells, the status bar.',
  autoStart: true,
  requires: [IRingKernels, INotebookTracker],
  optional: [ISettingRegistry, ICommandPalette, ILayoutRestorer, IStatusBar],
  activate: async (
    app: JupyterFrontEnd,
    model: IModel,
    notebooks: INotebookTracker,
    registry: ISettingRegistry | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    statusBar: IStatusBar | null
  ) => {
    const { commands, shell } = app;
    const open = addTabs(app, model, restorer);
    const outside = {
      commands,
      open: (source: ISource, view: (typeof VIEWS)[number], runtime: number, kernel: string | null) =>
        void open({ path: source.path, view, runtime, kernel })
    };
    const panel = new Side(model, outside);
    panel.id = 'pydotcompute-panel';
    panel.title.icon = icon;
    panel.title.caption = CATEGORY;
    panel.node.setAttribute('role', 'region');
    panel.node.setAttribute('aria-label', CATEGORY);
    shell.add(panel, 'left', { rank: 520 });
    restorer?.add(panel, panel.id);

    const show = (): void => shell.activateById(panel.id);
    const select = (source: ISource, kernel: IKernelRef): void => {
      // The notebook of a badge that is clicked is in front, unless another one is kept there.
      model.pinned = model.pinned === null ? null : source.id;
      model.selected = kernel;
      show();
    };
    addCommands(app, model, palette, show, outside.open);
    addPictures(notebooks);

    const setBadges = addBadges(model, notebooks, select);
    let status: { dispose(): void } | null = null;
    const setStatus = (on: boolean): void => {
      status?.dispose();
      status = null;
      if (on && statusBar) {
        const item = new Status(model, show);
        const registered = statusBar.registerStatusItem('pydotcompute:status', { item, align: 'left', rank: 20 });
        status = {
          dispose: () => {
            registered.dispose();
            item.dispose();
          }
        };
      }
    };
    const settings = await registry?.load(plugin.id).catch((error: Error) => {
      console.warn(`The settings of the ring kernels could not be read: ${error.message}`);
      return undefined;
    });
    const apply = (): void => {
      panel.hz = (settings?.get('refreshRate').composite as number | undefined) ?? 2;
      setBadges((settings?.get('badges').composite as boolean | undefined) ?? true);
      setStatus((settings?.get('statusBar').composite as boolean | undefined) ?? true);
    };
    settings?.changed.connect(apply);
    apply();
  }
};

function addCommands(
  app: JupyterFrontEnd,
  model: IModel,
  palette: ICommandPalette | null,
  show: () => void,
  open: (source: ISource, view: (typeof VIEWS)[number], runtime: number, kernel: string | null) => void
): void {
  const { commands } = app;
  const added = [SHOW];
  commands.addCommand(SHOW, { label: 'Show Ring Kernels', icon, execute: show });
  const live = (): number | undefined =>
    model.current?.session.frame?.runtimes.find(({ status }) => status === 'live')?.id;
  for (const view of VIEWS) {
    const id = `pydotcompute:open-${view}`;
    added.push(id);
    commands.addCommand(id, {
      label: `Open ${view[0]!.toUpperCase()}${view.slice(1)} of Ring Kernels`,
      isEnabled: () => live() !== undefined,
      execute: () => open(model.current!, view, live()!, null)
    });
  }
  for (const verb of VERBS) {
    const id = `pydotcompute:${verb}`;
    added.push(id);
    commands.addCommand(id, {
      label: () => `${ACTS[verb].word} ${model.selected ? `“${model.selected.kernel}”` : 'the Selected Ring Kernel'}`,
      isEnabled: () => model.selected !== null && model.current?.session.phase === 'live',
      execute: () => {
        const { runtime, kernel } = model.selected!;
        model.current!.session.command(verb, runtime, kernel).then(
          text => text && Notification.success(text, { autoClose: 3000 }),
          (error: Error) => Notification.error(error.message)
        );
      }
    });
  }
  model.changed.connect(() => {
    for (const id of added) {
      commands.notifyCommandChanged(id);
    }
  });
  for (const command of added) {
    palette?.addItem({ command, category: CATEGORY });
  }
}

export default [kernels, plugin, templates, launcher, highlight];
