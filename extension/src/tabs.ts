/** Views of a kernel's own widgets in the main area: tabs that can be dragged, and are there again after a reload. */
import type { ILayoutRestorer, JupyterFrontEnd } from '@jupyterlab/application';
import { MainAreaWidget, WidgetTracker } from '@jupyterlab/apputils';
import { UUID } from '@lumino/coreutils';

import { VIEWS } from './protocol';
import type { ITab, TabContent } from './tab';
import type { IModel } from './tokens';

const OPEN = 'pydotcompute:open-view';

/** Make the command that opens views; returns what does it. */
export function addTabs(
  app: JupyterFrontEnd,
  model: IModel,
  restorer: ILayoutRestorer | null
): (tab: ITab) => Promise<unknown> {
  const tracker = new WidgetTracker<MainAreaWidget<TabContent>>({ namespace: 'pydotcompute-views' });

  app.commands.addCommand(OPEN, {
    label: args => `Open ${String(args['view'] ?? 'a view')} of the ring kernels`,
    execute: async args => {
      const { path, view, runtime, kernel } = args as unknown as ITab;
      if (typeof path !== 'string' || !VIEWS.includes(view) || !Number.isInteger(runtime)) {
        throw new Error(
          `${OPEN} takes path, view (${VIEWS.join(', ')}), runtime (a number) and kernel (an id or null)`
        );
      }
      const name = JSON.stringify([path, view, runtime, kernel]);
      let widget = tracker.find(({ content }) => named(content.tab) === name);
      if (!widget) {
        const { TabContent } = await import('./tab'); // fetched when it is asked for
        widget = new MainAreaWidget({
          content: new TabContent({ path, view, runtime, kernel: kernel ?? null }, model)
        });
        widget.id = `pydotcompute-${UUID.uuid4()}`;
        const made = widget;
        // The first view stands beside the notebook, the others behind it: there is room for one.
        const other = tracker.find(one => one !== made && one.isAttached);
        app.shell.add(made, 'main', other ? { mode: 'tab-after', ref: other.id } : { mode: 'split-right' });
        void tracker.add(made);
        made.content.title.changed.connect(() => void tracker.save(made)); // its notebook was renamed
      }
      app.shell.activateById(widget.id);
      return widget;
    }
  });
  void restorer?.restore(tracker, {
    command: OPEN,
    args: ({ content }) => ({ ...content.tab }),
    name: ({ content }) => named(content.tab)
  });
  return tab => app.commands.execute(OPEN, { ...tab });
}

const named = ({ path, view, runtime, kernel }: ITab): string => JSON.stringify([path, view, runtime, kernel]);
