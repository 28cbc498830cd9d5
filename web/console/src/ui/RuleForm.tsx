/** A rule of a route, as a part of the route's form. */
import type { JSX } from 'preact';
import type { Offer } from '../protocol';
import { CHOICES, newCondition, SIGNALS, type ConditionDraft, type RuleDraft, type Signal } from '../routes';
import { fieldWords, fill } from '../words';
import { useRouteWords } from '../words/routes';
import { useSurroundings } from './context';
import { SelectField, TextField, type Act } from './form';
import { Group, ModelField, Order, Targets, Wrong } from './RouteForm';

interface RuleFieldsProps {
  act: Act;
  at: number;
  count: number;
  rule: RuleDraft;
  setRule: (rule: RuleDraft) => void;
  move: (by: -1 | 1) => void;
  remove: () => void;
  offers: Offer[];
}

export function RuleFields({ act, at, count, rule, setRule, move, remove, offers }: RuleFieldsProps): JSX.Element {
  const words = useRouteWords();
  const pointer = `/rules/${at}`;
  const name = fill(words.rule, { n: String(at + 1) });
  const set = (part: Partial<RuleDraft>): void => setRule({ ...rule, ...part });
  return (
    <section class="card" aria-label={name} data-test={`rule-${at + 1}`}>
      <div class="section-head">
        <h2>{name}</h2>
        <Order name={name} at={at} count={count} move={move} remove={remove} />
      </div>
      <TextField label={words.name} pointer={`${pointer}/name`} refusal={act.refusal} value={rule.name} setValue={(next) => set({ name: next })} />
      <Group title={words.when}>
        <Wrong act={act} pointer={`${pointer}/when`} />
        {rule.when.map((condition, index) => (
          <ConditionFields
            key={condition.key}
            act={act}
            at={index}
            pointer={`${pointer}/when/${index}`}
            condition={condition}
            offers={offers}
            setCondition={(next) => set({ when: rule.when.map((one) => (one === condition ? next : one)) })}
            remove={() => set({ when: rule.when.filter((one) => one !== condition) })}
          />
        ))}
        <div><button type="button" class="button small" onClick={() => set({ when: [...rule.when, newCondition()] })}>{words.addCondition}</button></div>
      </Group>
      <Group title={words.answers}>
        <Targets act={act} at={`${pointer}/targets`} targets={rule.targets} setTargets={(targets) => set({ targets })} offers={offers} local={rule.local} weighs />
      </Group>
      <div>
        <label class="choice">
          <input type="checkbox" checked={rule.local} onChange={(event) => set({ local: event.currentTarget.checked })} />
          {words.onlyLocal}
        </label>
        <p class="hint">{words.onlyLocalHint}</p>
        <label class="choice">
          <input type="checkbox" checked={rule.trial} onChange={(event) => set({ trial: event.currentTarget.checked })} />
          {words.joinsTrial}
        </label>
      </div>
    </section>
  );
}

interface ConditionFieldsProps {
  act: Act;
  at: number;
  pointer: string;
  condition: ConditionDraft;
  setCondition: (condition: ConditionDraft) => void;
  remove: () => void;
  offers: Offer[];
}

function ConditionFields({ act, at, pointer, condition, setCondition, remove, offers }: ConditionFieldsProps): JSX.Element {
  const words = useRouteWords();
  const { signal } = condition;
  const set = (part: Partial<ConditionDraft>): void => setCondition({ ...condition, ...part });
  const written = (field: 'listed' | 'low' | 'high', label: string, end: string, hint?: string): JSX.Element => (
    <TextField label={label} {...(hint !== undefined && { hint })} pointer={`${pointer}/${end}`} refusal={act.refusal} value={condition[field]} setValue={(value) => set({ [field]: value })} {...(field !== 'listed' && { inputMode: 'numeric' as const })} />
  );
  return (
    <div class="form fold">
      <div class="filter">
        <SelectField
          label={`${words.about} (${fill(words.condition, { n: String(at + 1) })})`}
          pointer=""
          refusal={null}
          value={signal}
          setValue={(next) => setCondition({ ...newCondition(next as Signal), key: condition.key })}
          options={SIGNALS.map((one) => [one, words.signals[one] ?? one] as const)}
        />
        <Order name={fill(words.condition, { n: String(at + 1) })} at={at} count={1} move={() => {}} remove={remove} />
      </div>
      <Wrong act={act} pointer={pointer} />
      {signal === 'health' && <ModelField label={words.model} pointer={`${pointer}/model`} act={act} none={words.choose} offers={offers} model={condition.model} setModel={(model) => set({ model })} />}
      {CHOICES[signal] && <Ticks act={act} pointer={`${pointer}/any_of`} choices={CHOICES[signal]} ticked={condition.ticked} setTicked={(ticked) => set({ ticked })} />}
      {signal === 'language' && written('listed', words.codes, 'any_of', words.codesHint)}
      {signal === 'sentiment' && (
        <div class="pair">
          {written('listed', words.labels, 'any_of', words.labelsHint)}
          {written('low', words.probability, 'at_least')}
        </div>
      )}
      {(signal === 'characters' || signal === 'prompt_tokens') && (
        <div class="pair">
          {written('low', words.atLeast, 'at_least')}
          {written('high', words.atMost, 'at_most')}
        </div>
      )}
      {signal === 'balance' && written('low', words.below, 'below')}
      {signal === 'spent_this_month' && written('low', words.spent, 'at_least')}
    </div>
  );
}

interface TicksProps {
  act: Act;
  pointer: string;
  choices: readonly string[];
  ticked: string[];
  setTicked: (ticked: string[]) => void;
}

function Ticks({ act, pointer, choices, ticked, setTicked }: TicksProps): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useRouteWords();
  const wrong = fieldWords(all, act.refusal, pointer);
  return (
    <fieldset class="field" data-invalid={wrong !== ''} tabIndex={-1}>
      <legend class="label">{words.oneOf}</legend>
      <div class="choices">
        {choices.map((choice) => (
          <label key={choice} class="choice">
            <input type="checkbox" checked={ticked.includes(choice)} onChange={(event) => setTicked(event.currentTarget.checked ? [...ticked, choice] : ticked.filter((one) => one !== choice))} />
            {words.choices[choice]}
          </label>
        ))}
      </div>
      {wrong !== '' && <p class="wrong">{wrong}</p>}
    </fieldset>
  );
}
